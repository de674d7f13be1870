"""TensorBoard's event files: what a reader finds in them."""

import errno
import struct
import sys

import pytest
from run_folders import VAL, trained

from minifcn import cli, runs
from minifcn.event_files import EventFileError, EventFiles, event_writer
from minifcn.run_log import read_log
from minifcn.step import Step
from minifcn.watched_pictures import Chosen


@pytest.fixture(scope="module")
def logged(tmp_path_factory):
    """The folder of a run with event files."""
    pytest.importorskip("tensorboardX")
    out = tmp_path_factory.mktemp("events") / "run"
    trained(out, tensorboard=True)
    return out


def events(folder):
    """Yield all events of a folder: records of a length, its checksum, bytes, their checksum."""
    from tensorboardX.proto.event_pb2 import Event

    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        while content:
            (length,) = struct.unpack("<Q", content[:8])
            yield Event.FromString(content[12 : 12 + length])
            content = content[16 + length :]


def scalars(folder, tag):
    found = [(event.step, v) for event in events(folder) for v in event.summary.value]
    return [(step, v.simple_value) for step, v in found if v.tag == tag]


@pytest.mark.parametrize("stage", ["fcn32s", "fcn8s"])
def test_the_files_hold_what_the_log_holds(logged, stage):
    log = read_log(logged / stage / "log.jsonl")
    folder = logged / "tensorboard" / stage
    for tag, curve in (
        ("loss", log.curves["loss"]),
        ("learning_rate", log.curves["lr"]),
        ("mean_iu", log.metrics[""]["mean_iu"]),
        ("IU/circle", log.ious[""][1]),
    ):
        points = curve.points()
        assert [step for step, _ in scalars(folder, tag)] == points.steps.tolist()
        values = [value for _, value in scalars(folder, tag)]
        assert values == pytest.approx(points.means.tolist(), rel=1e-6)


def test_the_files_hold_the_pictures(logged):
    folder = logged / "tensorboard" / "fcn8s"
    values = [v for event in events(folder) for v in event.summary.value if v.HasField("image")]
    assert {v.tag for v in values} == {f"pictures/{sample.name}" for sample in Chosen(VAL)}
    assert {(v.image.height, v.image.width) for v in values} == {(64, 64)}


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
def test_tensorboard_itself_reads_them(logged):
    reader = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator",
        reason="tensorboard is not installed",
    )
    accumulator = reader.EventAccumulator(str(logged / "tensorboard" / "fcn8s"))
    accumulator.Reload()
    log = read_log(logged / "fcn8s" / "log.jsonl")
    losses = [event.value for event in accumulator.Scalars("loss")]
    assert losses == pytest.approx(log.curves["loss"].points().means.tolist(), rel=1e-6)
    assert len(accumulator.Tags()["images"]) == 6


def test_without_the_package_nothing_begins(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(EventFileError, match=r"pip install 'minifcn\[tensorboard\]'"):
        event_writer()
    with pytest.raises(EventFileError):
        trained(tmp_path / "run", tensorboard=True)
    assert not (tmp_path / "run").exists()
    with pytest.raises(SystemExit) as code:
        cli.main(["train", "--data", "shapes", "--out", str(tmp_path / "run"), "--tensorboard"])
    assert code.value.code == 2
    assert "leave out --tensorboard" in capsys.readouterr().err.replace("\n", " ")
    assert not (tmp_path / "run").exists()


def test_a_full_disk_ends_the_files_and_not_the_run(tmp_path, monkeypatch):
    """The package's own writer would wait for its thread for ever."""
    tensorboardx = pytest.importorskip("tensorboardX")

    def full(writer, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tensorboardx.record_writer.RecordWriter, "write", full)
    warnings = []
    files = EventFiles(tmp_path, warnings.append)
    files.started("fcn32s", at=2)
    for number in range(3, 30):
        files.stepped(Step(number, 30, 0.5, lr=0.1, seconds=0.0))
    files.close()
    assert len(warnings) == 1
    assert "no further event files for TensorBoard: No space left on device" in warnings[0]


def test_without_being_asked_there_are_none(tmp_path):
    trained(tmp_path / "run")
    assert not (tmp_path / "run" / "tensorboard").exists()
    assert runs.read(tmp_path / "run").state.name == "finished"
