"""The served page and interface: what predict says, hostile uploads, many clients, and a real browser."""

import http.client
import json
import os
import signal
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from conftest import ROOT, draw

import pipeline
from features import FeatureStore
from features.errors import RequestError, StoreError, UnreadableImage
from pipeline.cli.commands import main
from pipeline.deploy.predictor import Predictor

uvicorn = pytest.importorskip("uvicorn", reason="the extra serve is not installed")
pytest.importorskip("starlette", reason="the extra serve is not installed")

from pipeline.cli.serving import server  # noqa: E402

sys.path.insert(0, str(ROOT / "tests/pipeline/reports"))
from test_page import browser as browser  # noqa: E402


@pytest.fixture(scope="module")
def run(tiny_store, tmp_path_factory):
    """A run with sets, and new photos."""
    folder = tmp_path_factory.mktemp("served")
    pipeline.train_head(tiny_store, "logistic", conformal=0.8, out=folder / "run")
    for number in range(6):
        draw(folder / f"new/{number}.png", 700 + number, ((20, 20, 120), (120, 20, 20))[number % 2])
    return folder


@pytest.fixture(scope="module")
def served(run):
    """The host and port of a server of the run."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with Predictor(run / "run") as predictor:
        config = uvicorn.Config(server.make_app(predictor), host="127.0.0.1", port=port, log_level="warning")
        serving = uvicorn.Server(config)
        thread = threading.Thread(target=serving.run)
        thread.start()
        while not serving.started:
            time.sleep(0.02)
        yield "127.0.0.1", port
        serving.should_exit = True
        thread.join()


def ask(served, path, body=None, headers=None, connection=None):
    """Return the status, headers and content of an answer."""
    connected = connection or http.client.HTTPConnection(*served, timeout=60)
    chunked = "Transfer-Encoding" in (headers or {})
    connected.request("GET" if body is None else "POST", path, body, headers or {}, encode_chunked=chunked)
    answer = connected.getresponse()
    content = answer.read()
    if connection is None:
        connected.close()
    return answer.status, answer.headers, content


def test_an_upload_gets_what_predict_says(run, served, tiny_store):
    with FeatureStore(tiny_store) as store:
        stored = Path(store.provenance["source"]["root"]) / store.rows.paths[int(np.argmin(store.rows.splits))]
    files = [*sorted((run / "new").iterdir()), stored]
    for file, expected in zip(files, pipeline.predict(run / "run", files).predictions, strict=True):
        status, headers, content = ask(served, f"/predict?name={quote(file.name)}", file.read_bytes())
        found = json.loads(content)
        told = expected.to_json()
        assert status == 200 and found["path"] == file.name and headers["X-Content-Type-Options"] == "nosniff"
        assert found["class"] == told["class"] and found["set"] == told["set"]
        assert found["probabilities"] == pytest.approx(told["probabilities"], abs=1e-3)
        assert found["novelty"] == pytest.approx(told["novelty"], abs=1e-3) and found["unlike"] == (told["novelty"] > 1)
        assert "nearest" not in found
    details = json.loads(ask(served, "/predict?details=1", stored.read_bytes())[2])
    near = details["nearest"][0]
    assert near["name"] == stored.name and near["distance"] < 1e-3 and len(details["nearest"]) == 4
    assert details["looked"].startswith("data:image/png") and near["image"].startswith("data:image/jpeg")


def test_hostile_uploads_get_an_error_and_leave_nothing(run, served, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    before = sorted(run.rglob("*"))
    png = (run / "new/0.png").read_bytes()
    uploads = {b"": 422, b"no image": 422, png[: len(png) // 2]: 422, b"<svg onload=alert(1)>": 422, b"\0" * 100: 422}
    for data, status in uploads.items():
        found, _, content = ask(served, "/predict", data)
        assert found == status and json.loads(content)["error"].startswith("the image "), data
    form = ask(served, "/predict", png, {"Content-Type": "Multipart/form-data; boundary=x"})
    assert form[0] == 415 and "curl --data-binary @photo.jpg" in json.loads(form[2])["error"]
    monkeypatch.setattr(server, "MOST_BYTES", 1000)
    assert ask(served, "/predict", b"x" * 1001)[0] == 413
    assert ask(served, "/predict", iter([b"x" * 600] * 3), {"Transfer-Encoding": "chunked"})[0] == 413
    monkeypatch.undo()
    monkeypatch.setattr(server, "SECONDS", 0.2)
    with socket.create_connection(served) as slow:
        slow.sendall(b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 10\r\n\r\nx")
        assert b" 408 " in slow.recv(200)
    monkeypatch.setattr(server, "MOST_WAITING", 0)
    status, headers, _ = ask(served, "/predict", png)
    assert status == 503 and headers["Retry-After"] == "1"
    monkeypatch.undo()
    monkeypatch.setattr(server, "MOST_HELD", len(png) - 1)
    for _ in range(2):  # what was refused is not held
        assert ask(served, "/predict", png)[0] == 503
    monkeypatch.setattr(server, "MOST_HELD", len(png))
    assert ask(served, "/predict", png)[0] == 200
    monkeypatch.undo()
    assert ask(served, "/predict", png, {"Host": "evil.example"})[0] == 400  # a name that leads here
    assert ask(served, "/../../etc/passwd")[0] == 404 and ask(served, "/predict")[0] == 405
    assert ask(served, "/predict?name=" + quote("<b>" * 100), png)[0] == 200
    assert sorted(run.rglob("*")) == before and list(tmp_path.iterdir()) == []


def test_an_error_of_ours_is_told_and_logged(run, served, monkeypatch, said):
    def fail(*_):
        raise StoreError("features must be finite; got nan. Do this.")

    monkeypatch.setattr(server, "examine", fail)
    status, _, content = ask(served, "/predict?name=a.png", next((run / "new").iterdir()).read_bytes())
    assert status == 500 and json.loads(content) == {"error": "features must be finite; got nan. Do this."}
    assert said == ["error    a.png: features must be finite; got nan. Do this."]


def test_a_thousand_requests_by_eight_clients_are_all_answered(run, served):
    files = [file.read_bytes() for file in sorted((run / "new").iterdir())]
    expected = [json.loads(ask(served, "/predict", data)[2])["class"] for data in files]

    def client(number):
        connection, right = http.client.HTTPConnection(*served, timeout=60), 0
        for each in range(125):
            place = (number + each) % len(files)
            status, _, content = ask(served, "/predict", files[place], connection=connection)
            right += status == 200 and json.loads(content)["class"] == expected[place]
        connection.close()
        return right

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(client, range(8))) == 1000


@pytest.fixture
def port():
    """One that is free."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_the_port_is_held_while_the_base_is_loaded(run, port, monkeypatch):
    def load(_):
        socket.create_connection(("127.0.0.1", port), 5).close()
        raise RequestError("could connect")

    monkeypatch.setattr(Predictor, "load", load)
    with pytest.raises(RequestError, match="could connect"):
        pipeline.serve(run / "run", port=port)


def test_who_asks_at_once_is_answered_and_ctrl_c_ends_the_server(run, port, monkeypatch, capsys):
    found, real = [], Predictor.load

    def ask_and_end():
        found.append(ask(("127.0.0.1", port), "/health")[0])
        os.kill(os.getpid(), signal.SIGINT)

    def load(predictor):
        threading.Thread(target=ask_and_end).start()
        real(predictor)

    monkeypatch.setattr(Predictor, "load", load)
    assert main(["serve", "--run", str(run / "run"), "--port", str(port)]) == 0
    assert found == [200] and "done     the server has ended" in capsys.readouterr().err


def test_the_interface_is_told(served):
    told = json.loads(ask(served, "/openapi.json")[2])
    assert told["openapi"].startswith("3.1") and list(told["paths"]) == ["/predict"]
    schema = told["paths"]["/predict"]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
    assert schema["properties"]["class"]["enum"] == ["blue", "red"]
    assert b"/openapi.json" in ask(served, "/docs")[2] and ask(served, "/health")[2] == b"ok"


def test_photos_are_dropped_on_the_page(run, served, browser):
    browser.get("http://{}:{}/".format(*served))
    (run / "none.png").write_bytes(b"no image")
    files = [*sorted((run / "new").iterdir())[:2], run / "none.png"]
    browser.find_element("id", "files").send_keys("\n".join(map(str, files)))
    for _ in range(200):
        if "3 of 3" in browser.find_element("id", "status").text:
            break
        time.sleep(0.05)
    cards = {
        card.find_element("class name", "name").text: card for card in browser.find_elements("tag name", "article")
    }
    predicted = pipeline.predict(run / "run", files[:2]).predictions
    for each in predicted:
        card = cards[Path(each.path).name]
        assert card.find_element("class name", "class").text == each.class_name
        assert "novelty" in card.text and "set" in card.text
        assert len(card.find_elements("css selector", ".nearest img")) == 4
        assert card.find_element("class name", "heat").is_displayed()
        assert card.find_element("class name", "legend").text == "Orange is evidence for the class, blue against it."
    assert "the image" in cards["none.png"].find_element("tag name", "h2").text
    assert not cards["none.png"].find_element("class name", "legend").is_displayed()
    browser.execute_script("ask(new File([new Uint8Array(40_000_001)], 'large.mov'))")
    large = browser.find_element("tag name", "article").find_element("tag name", "h2").text
    assert large == "a photo may have at most 33 MB; this file has 41 MB"
    severe = [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert all("422" in message for message in severe), severe


def test_requests_that_cannot_be_served_are_refused(run, tmp_path):
    with pytest.raises(RequestError, match="port must be from 1 to 65535; got 0"):
        pipeline.serve(run / "run", port=0)
    with pytest.raises(RequestError, match="holds no trained head"):
        pipeline.serve(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            RequestError, match=rf"can listen; 127\.0\.0\.1:{port} is not \(Address already in use\).* port={port + 1}"
        ):
            pipeline.serve(run / "run", port=port)
    with Predictor(run / "run") as predictor, pytest.raises(UnreadableImage):
        predictor.examine(b"no image")
