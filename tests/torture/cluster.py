"""Long trials of a pass on a cluster of real processes on loopback: ``python tests/torture/cluster.py workers --times 20``.

As in tests/torture/store.py the engine is a numpy stand-in: the trials are about files and processes. What is killed is killed by
SIGKILL at a random moment; a run ends, or fails and is started again as its error says, until the store is there.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
import venv
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from machines import Cable, Machines  # noqa: E402
from torture.store import child, finish, make_images, same  # noqa: E402

OPTIONS = {"image_size": 32}
DEAF = {
    "DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP": "11s"
}  # the least, instead of 30 s until somebody who says nothing is taken for lost
SECONDS = 0.05  # a batch of eight on the stand-in, so that 240 images take a while


def prepare(place):
    """Return images and the store that one machine makes of them."""
    data = make_images(place / "images", 240)
    assert finish(child(data, place / "whole.h5", **OPTIONS))[0] == 0
    (place / "dask").mkdir()
    return data, place / "whole.h5"


def start(data, out, machines, wait=60.0):
    """Start a client, which waits so long for workers once there are none."""
    command = child(data, out, cluster=machines.address, part_images=8, **OPTIONS)
    patient = {**os.environ, "DASK_CACHED_FEATURES__NO_WORKER": str(wait)}
    return subprocess.Popen(command, env=patient, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def moment(out, generator):
    """Wait until a random number of parts is there and a random while longer; return that number."""
    wanted, deadline = generator.randrange(28), time.monotonic() + 60
    folder = Path(f"{out}.parts")
    while len(list(folder.glob("part-*.h5"))) < wanted and not out.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(generator.uniform(0, 2 * SECONDS))
    return len(list(folder.glob("part-*.h5")))


def judge(whole, out):
    """Hold a store against that of one machine, and see that nothing lies beside it."""
    same(whole, out)
    assert not Path(f"{out}.parts").exists()
    out.unlink()


def workers(place, times):
    """Kill a random one of three workers in each run; another takes its place."""
    data, whole = prepare(place)
    parts, ends = Counter(), Counter()
    with Machines(place / "dask", seconds=SECONDS) as machines:
        machines.start_scheduler()
        for name in "abc":
            machines.start_worker(name)
        for number in times:
            generator, out = random.Random(number), place / f"s{number}.h5"
            client = start(data, out, machines)
            parts[moment(out, generator) // 10 * 10] += 1
            machines.kill(generator.choice(list(machines.workers)))
            machines.start_worker(f"w{number}")
            told = client.communicate(timeout=120)
            assert client.returncode == 0, told
            ends["of itself"] += 1
            judge(whole, out)
    return {
        "runs": len(times),
        "killed after parts, from": dict(sorted(parts.items())),
        "ended": dict(ends),
        "all equal": True,
    }


def schedulers(place, times):
    """Kill the scheduler in each run; start all again and give the same command."""
    data, whole = prepare(place)
    kept = []
    for number in times:
        generator, out = random.Random(number), place / f"s{number}.h5"
        with Machines(place / "dask", seconds=SECONDS) as machines:
            machines.start_scheduler().start_worker("a").start_worker("b")
            client = start(data, out, machines)
            moment(out, generator)
            machines.kill()
            told = client.communicate(timeout=120)[1]
            if client.returncode == 0:  # it was just done
                judge(whole, out)
                continue
            assert "is gone. Start it again" in told and not out.exists(), told
            kept.append(len(list(Path(f"{out}.parts").glob("part-*.h5"))))
            machines.start_scheduler().start_worker("c").start_worker("d")
            assert finish(child(data, out, cluster=machines.address, part_images=8, **OPTIONS))[0] == 0
            judge(whole, out)
    return {"runs": len(times), "parts kept of 30": kept, "all equal": True}


def clients(place, times):
    """Kill the client in each run and give the same command at once, while workers still have its parts."""
    data, whole = prepare(place)
    kept, computed = [], []
    with Machines(place / "dask", seconds=SECONDS) as machines:
        machines.start_scheduler().start_worker("a").start_worker("b")
        for number in times:
            generator, out = random.Random(number), place / f"s{number}.h5"
            client = start(data, out, machines)
            moment(out, generator)
            client.kill()
            client.wait()
            kept.append(len(list(Path(f"{out}.parts").glob("part-*.h5"))))
            told = subprocess.run(
                child(data, out, cluster=machines.address, part_images=8, **OPTIONS),
                capture_output=True,
                text=True,
                timeout=120,
            )
            assert told.returncode == 0, told.stderr
            computed.append(int(told.stdout.split()[-1]))
            judge(whole, out)
    return {"runs": len(times), "parts kept of 30": kept, "images computed after": computed, "all equal": True}


def disk(place, times):
    """Give one of two workers a full disk of its own (an overlay on a small one), then both."""
    data, whole = prepare(place)
    seen = Counter()
    with Machines(place / "dask", seconds=SECONDS) as machines:
        machines.start_scheduler().start_worker("good")
        for number in times:
            out = place / f"s{number}.h5"
            parts = Path(f"{out}.parts")
            parts.mkdir()
            script = (  # its writes go to 64 kB of its own, and what others write is there to be read
                f"mkdir -p {place}/small && mount -t tmpfs -o size=64k tmpfs {place}/small && mkdir {place}/small/up "
                f"{place}/small/work && mount -t overlay overlay -o lowerdir={parts},upperdir={place}/small/up,"
                f'workdir={place}/small/work {parts} && head -c 60000 /dev/zero > {place}/small/filler; exec "$@"'
            )
            machines.start_worker("full", before=["unshare", "-m", "sh", "-c", script, "sh"])
            time.sleep(3)
            client = start(data, out, machines)
            said = client.communicate(timeout=120)[0]
            machines.kill("full")
            if client.returncode:
                return {"skipped": "an overlay is not permitted here", "said": said[-300:]}
            seen["failed parts told with the worker"] += said.count("is full")
            assert "warning  part " in said and "failed on worker tcp://" in said, said
            judge(whole, out)
    return {"runs": len(times), **seen, "all equal": True}


def network(place, times):
    """Cut a worker off in each run at a random moment: for good, for a while, and for good where there is no other one."""
    data, whole = prepare(place)
    cable, kept, ends = Cable(), [], Counter()
    with Machines(place / "dask", seconds=SECONDS, host=cable.here, **DEAF) as machines:
        machines.start_scheduler()
        for number in times:
            kind = ("for good", "for a while", "the only one")[number % 3]
            if kind != "the only one":
                machines.start_worker("near")
            machines.start_worker("far", before=cable.inside, host=cable.there)
            time.sleep(3)
            generator, out = random.Random(number), place / f"s{number}.h5"
            client = start(data, out, machines, wait=5)
            kept.append(moment(out, generator))
            cable.cut()
            if kind == "for a while":
                time.sleep(generator.uniform(0, 12))
                cable.mend()
            told = client.communicate(timeout=120)[1]
            for name in list(machines.workers):
                machines.kill(name)
            cable.mend()
            if kind == "the only one" and client.returncode:
                assert f"no fit workers for 5 s; the last was tcp://{cable.there}" in told and not out.exists(), told
                machines.start_worker("other")
                assert finish(child(data, out, cluster=machines.address, part_images=8, **OPTIONS))[0] == 0
                machines.kill("other")
            else:
                assert client.returncode == 0, told
            ends[f"{kind}, {'ended of itself' if client.returncode == 0 else 'told, then went on'}"] += 1
            judge(whole, out)
    cable.close()
    assert not list(place.glob("s[0-9]*.h5*"))
    return {"runs": len(times), "parts of 30 at the cut": kept, "cut": dict(ends), "all equal": True}


def versions(place, times):
    """Start a worker from an environment with another Pillow, which is really installed there."""
    data, whole = prepare(place)
    venv.create(place / "other", with_pip=False, symlinks=True)
    (site,) = (place / "other/lib").glob("python*/site-packages")
    installed = ["install", "--quiet", "--no-deps", "--target", str(site), "pillow==12.0.0"]
    subprocess.run([sys.executable, "-m", "pip", *installed], check=True, stderr=subprocess.DEVNULL)
    ours = [path for path in sys.path if path.endswith("site-packages")]
    (site / "ours.pth").write_text("\n".join([*ours, str(ROOT)]))
    with Machines(place / "dask") as machines:
        machines.start_scheduler().start_worker("same").start_worker("odd", python=str(place / "other/bin/python"))
        time.sleep(4)
        status, told = finish(child(data, place / "s.h5", cluster=machines.address, part_images=8, **OPTIONS))
        left = sorted(path.name for path in place.glob("s.h5*"))
        machines.kill("odd")
        time.sleep(1)
        again = finish(child(data, place / "s.h5", cluster=machines.address, part_images=8, **OPTIONS))
        assert again[0] == 0, again
        judge(whole, place / "s.h5")
    return {"status": status, "told": told.strip().splitlines()[-1], "left behind": left}


TRIALS = {trial.__name__: trial for trial in (workers, schedulers, clients, network, disk, versions)}


def main():
    """Run one trial and print what was seen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("trial", choices=TRIALS)
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--first", type=int, default=0, metavar="SEED", help="of the first run; the next have the next")
    options = parser.parse_args()
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    with tempfile.TemporaryDirectory() as place:
        begun = time.monotonic()
        seen = TRIALS[options.trial](Path(place), range(options.first, options.first + options.times))
        print(json.dumps({"trial": options.trial, **seen, "seconds": round(time.monotonic() - begun)}))


if __name__ == "__main__":
    main()
