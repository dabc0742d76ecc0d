"""How the pass's time and memory grow with images and their size: each extraction a process of its own.

    .venv/bin/python tests/bench/growth.py --engine openvino-bf16

Real VGG16 on cells of elpv-dataset; beyond 2,624 images their flipped views take part. Prints a Markdown table.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile

COUNTS, SIZES = (250, 500, 1000, 2000, 4000), (64, 112, 224, 448)
_CELLS = 2000  # of which more images are views


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--images", type=int, default=500, help="where the size grows")
    options = parser.parse_args()
    print(
        "| images | size, px | pass s | images/s | pass and commit, ms an image | peak memory, MB |\n|---|---|---|---|---|---|"
    )
    for count, size in [*((count, 224) for count in COUNTS), *((options.images, size) for size in SIZES)]:
        done, peak = extract(count, size, options.engine)
        seconds = done["seconds"]
        each = 1000 * (seconds["pass"] + seconds["commit"]) / count
        print(
            f"| {count} | {size} | {seconds['pass']:.1f} | {count / seconds['pass']:.1f} | {each:.1f} | {peak:.0f} |",
            flush=True,
        )


def extract(count, size, engine):
    """Return what the command reports of an extraction, and its peak memory in MB."""
    views = -(-count // _CELLS)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pipeline", "extract", "--data", "elpv", "--out", f"{folder}/s.h5", "--json"]
        command += ["--limit", str(count // views), "--image-size", str(size), "--engine", engine, "--pool", "none"]
        command += ["--views", str(views), "--augment", "hflip"] if views > 1 else []
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            told = process.stdout.read()
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0, command
    return json.loads(told), usage.ru_maxrss / 1024


if __name__ == "__main__":
    main()
