"""A process that reads damaged input, case after case, while it is watched; see test_fuzz_inputs.

Called as ``python -m tests.hostile_worker KIND FIRST END FOLDER``. For each case it prints a line
before (its number) and one after (what came of it, as JSON). Its memory is bounded, and each
attempt to start a program, to run code that is made on the way, to open a connection or to write
outside of the folder is noted.
"""

import contextlib
import copy
import hashlib
import io
import json
import os
import random
import resource
import shutil
import sys
import time
import traceback
import warnings
import zlib
from pathlib import Path

import numpy as np
import scipy.io
from PIL import Image

from minifcn import data, runs
from minifcn.backend import Error
from minifcn.cli import main
from minifcn.data import mat
from minifcn.data.convert import convert
from minifcn.data.depth import read_log_depth
from minifcn.data.images import read_gray16, read_label_pixels, read_size
from minifcn.data.sbd import read_sbd_label
from minifcn.data.siftflow import read_geometric, read_semantic
from minifcn.data.sources import splits_of
from minifcn.plain_text import HIDDEN
from minifcn.prediction_folder import PredictionFolder
from minifcn.prepare import check_folder
from minifcn.run_page import write_page
from minifcn.weights.readers import hdf5
from tests import hostile_files, layouts_folder, layouts_voc
from tests.damage import ODD_TEXTS, damaged, damaged_text, damaged_value
from tests.foreign_files import own_file, safetensors, safetensors_parts

MEMORY = 3 << 30  # bytes of addresses
PIXELS = 4_000_000  # of an image, in this test
LONGEST = 20_000  # letters of a message


class Watch:
    """Notes what a reader of data has no business with."""

    def __init__(self, folder):
        self.folder, self.on, self.noted = os.path.realpath(folder), False, []
        sys.addaudithook(self.hook)

    def hook(self, event, arguments):
        if not self.on:
            return
        if event == "open":
            path, _, flags = arguments
            writes = flags & (os.O_WRONLY | os.O_RDWR) if isinstance(flags, int) else False
            if writes and isinstance(path, str | bytes):
                self.inside(event, path)
        elif event in ("os.remove", "os.mkdir", "os.rmdir", "os.truncate", "shutil.rmtree"):
            self.inside(event, arguments[0])
        elif event in ("os.rename", "os.link", "os.symlink"):
            self.inside(event, arguments[1])
        elif event == "subprocess.Popen":
            worker = [str(part) for part in arguments[1]][2:3]
            if worker not in ([str(mat.WORKER)], [str(hdf5.WORKER)]):
                self.noted.append(f"{event} {arguments[1]!r}")
        elif event in ("os.system", "os.exec", "os.fork", "os.posix_spawn", "socket.connect"):
            self.noted.append(event)
        elif event == "pickle.find_class":
            self.noted.append(f"{event} {arguments[1:]}")
        elif event == "exec":
            name = arguments[0].co_filename
            if not Path(name).exists() and not on_its_own(sys._getframe()):
                self.noted.append(f"{event} {name}")

    def inside(self, event, path):
        if isinstance(path, int):
            return
        real = os.path.realpath(os.fsdecode(path))
        if not real.startswith((self.folder, "/dev/null", "/dev/shm", "/proc/self")):
            self.noted.append(f"{event} {real!a}")


def on_its_own(frame):
    """Tell whether code is run for the import of a module, or for type hints, not for the data."""
    caller = frame.f_back.f_code.co_filename
    if not any(f"/{package}/" in caller for package in ("minifcn", "PIL", "numpy", "scipy")):
        return True
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


# ---- what is damaged, and who reads it: a function of a folder returns one of a case's number ----


def image_reader(folder):
    """Images and labels of all formats; each case returns what is to be called."""
    whole, bombs = list(hostile_files.images().values()), list(hostile_files.bombs().values())
    readers = [data.read_image, read_size, data.read_label, read_gray16, read_log_depth]
    readers.append(lambda path: read_label_pixels(path, colours=True))
    endings = (".png", ".jpg", ".tif", ".gif", ".webp", ".bmp", ".ppm", ".eps", "")

    def make(case):
        chance = random.Random(case)
        if case < 10 * len(bombs):
            content = bombs[case % len(bombs)]
        else:
            content = chance.choice(whole)
            content = damaged(content, case, chance.choice([0, 8, 30]))
            if chance.random() < 0.2:  # the beginning of one and the end of another
                other, cut = chance.choice(whole), chance.randrange(200)
                content = content[:cut] + other[cut:]
            if chance.random() < 0.5:
                content = hostile_files.with_sums(content)
        path = folder / f"a{chance.choice(endings)}"
        path.write_bytes(content)
        return lambda: [reader(path) for reader in readers[chance.randrange(6) :][:1]]

    return make


def list_reader(folder):
    """Text files of data sets: lists of splits, classes, pairs; and the names of data sets."""
    specs = {
        "voc": layouts_voc.make_voc(folder / "voc"),
        "context": layouts_voc.make_context(folder / "context"),
        "folder": layouts_folder.make_folder(folder / "folder"),
        "colours": layouts_folder.make_colour_folder(folder / "colours"),
    }
    place = folder / "folder"
    rows = "".join(f"images/{n}.jpg,labels/{n}.png,train\n" for n in ("b", "c.d", "e", "straße"))
    (place / "pairs.csv").write_text(
        "image,label,split\n" + rows + "images/a.png,labels/a.png,val\n"
    )
    table = "name,r,g,b\nsky,1,2,3\nroad,4,5,6\ncar,7,8,9\n"
    lists = folder / "voc/VOCdevkit/VOC2011/ImageSets/Segmentation"
    texts = [
        *[(specs["voc"], lists / name) for name in ("train.txt", "val.txt", "trainval.txt")],
        (specs["context"], folder / "context/context/labels.txt"),
        *[(specs["folder"], place / name) for name in ("train.txt", "classes.txt")],
        *[(specs["colours"], folder / "colours" / name) for name in ("val.txt", "classes.txt")],
        (f"csv:{place / 'pairs.csv'}", place / "pairs.csv"),
        (f"csv:{place / 'pairs.csv'}?classes=table.csv", place / "table.csv"),
    ]
    (place / "table.csv").write_text(table)
    before = {path: path.read_text() for _, path in texts}

    def make(case):
        chance = random.Random(case)
        spec, path = chance.choice(texts)
        for other, text in before.items():
            other.write_text(text)
        path.write_bytes(damaged_text(before[path], case))
        if chance.random() < 0.1:
            options = ("split", "values", "ignore", "codes", "labels", "images", "sbd", "classes")
            odd = chance.choice([*ODD_TEXTS, "1:2,3:4", "9999999:1", "0:0,0:0", "1:" + "9" * 5000])
            spec += f"{'&' if '?' in spec else '?'}{chance.choice(options)}={odd}"

        def call():
            for split in splits_of(spec):
                dataset = data.open_dataset(spec, split)
                out = PredictionFolder(folder / "out", dataset)
                for index in range(min(2, len(dataset))):
                    sample = dataset[index]
                    out.save(sample.name, {"": sample.label})
            if case % 10 == 0:
                convert(spec, folder / f"converted {case}")

        return call

    return make


def mat_reader(folder):
    """MATLAB files."""
    label = np.arange(1, 31, dtype=np.uint8).reshape(5, 6)

    def saved(content, **options):
        file = io.BytesIO()
        scipy.io.savemat(file, content, **options)
        return file.getvalue()

    wholes = [(read_semantic, saved({"S": label}, format="4"))]
    for packed in (True, False):
        for value in (label, label.astype(float) % 3):
            struct = {"Segmentation": value, "Boundaries": value}
            wholes += [
                (read_geometric, saved({"S": value % 4, "names": "x"}, do_compression=packed)),
                (read_sbd_label, saved({"GTcls": struct}, do_compression=packed)),
            ]
    bomb = saved({"S": np.zeros((9000, 9000), np.uint8)}, do_compression=True)

    def make(case):
        reader, content = wholes[case % len(wholes)]
        if content[128:129] == b"\x0f" and case % 4:  # packed: damage what is in it
            packed = zlib.compress(damaged(zlib.decompress(content[136:]), case))
            content = content[:128] + b"\x0f\0\0\0" + len(packed).to_bytes(4, "little") + packed
        else:
            content = damaged(content, case, 128 * (case % 3 > 0))
        path = folder / "a.mat"
        path.write_bytes(bomb if case % 100 == 50 else content)
        return lambda: reader(path)

    return make


def run_reader(folder):
    """What a run's folder says of the run."""
    recipe = {"steps": 40, "lr": 0.1, "batch_size": 2, "crop": 32}
    config = {"data": "shapes", "val": "shapes", "stages": {"fcn32s": recipe, "fcn16s": recipe}}
    config |= {"seed": 0, "command": "minifcn train", "versions": {"NumPy": "2.0"}, "format": 1}
    config |= {"backbone": "small", "options": {"widths": [1, 2]}, "given": {"data": "shapes"}}
    scores = {"pixel_accuracy": 0.5, "mean_accuracy": 0.5, "mean_iu": 0.4, "fw_iu": 0.3}
    measured = {"step": 20, **scores, "iu": [0.5, 0.5], "matrix": [[1, 2], [3, 4]]}
    layer = {"conv1": {"mean": 0.1, "std": 0.5, "gradient": 0.1, "zeros": 0.5, "update": 0.001}}
    lines = [
        *[{"step": s, "steps": 40, "loss": 0.5, "lr": 0.1, "seconds": 0.2} for s in range(1, 21)],
        {"step": 5, "layers": layer},
        {"step": 7, "event": "skipped"},
        measured,
    ]
    shown = {"heads": {"": [["a", "b"], [[0, 0, 0], [1, 2, 3]]]}, "samples": ["x", "y"]}
    state = {"name": "running", "stage": "fcn32s", "reason": ""}
    metrics = {"fcn32s": scores, "fcn16s": scores}
    whole = {
        "config.json": config,
        "metrics.json": metrics,
        "fcn32s/log.jsonl": lines,
        "watch/shown.json": shown,
        "watch/state.json": state,
    }
    out = folder / "run"
    for name in ("fcn32s", "watch"):
        (out / name).mkdir(parents=True)

    def write(name, value):
        if name.endswith(".jsonl") and isinstance(value, list):
            return "".join(json.dumps(line) + "\n" for line in value)
        return json.dumps(value)

    def make(case):
        chance = random.Random(case)
        for name, value in whole.items():
            (out / name).write_text(write(name, value))
        name = chance.choice([*whole, "config.json", "fcn32s/log.jsonl"])
        text = write(name, whole[name])
        match case % 4:
            case 0:
                content = damaged_text(text, case)
            case 1 if case % 20 == 1:
                content = (b"[" * 100_000) + text.encode()
            case _:
                content = write(name, damaged_value(whole[name], case)).encode()
        (out / name).write_bytes(content)

        def call():
            check_folder(out)
            write_page(folder / "report.html", runs.read(out))

        return call if chance.random() < 0.7 else lambda: command("runs", str(out))

    return make


def weight_reader(folder):
    """Weight files of ours through the command line."""
    path = folder / "own.safetensors"
    whole, numbers = safetensors_parts(own_file(path, origin="a\x1b[2Jb"))
    header = json.loads(whole)
    Image.new("RGB", (40, 40)).save(folder / "a.png")

    def make(case):
        told = copy.deepcopy(header)
        name = random.Random(case).choice(["model", "classes", "palette", "preprocessing"])
        if case % 3:
            value = json.loads(told["__metadata__"][name])
            told["__metadata__"][name] = json.dumps(damaged_value(value, case))
            head = json.dumps(told).encode()
        else:
            head = damaged(whole, case)
        path.write_bytes(safetensors(head, numbers))
        if case % 2:
            return lambda: command("info", str(path), "--size", "40")
        return lambda: command(
            "predict", str(path), str(folder / "a.png"), "--out", str(folder / "out")
        )

    return make


def command_reader(folder):
    """Command lines with odd values, and commands on data sets with a damaged file."""
    spec = layouts_folder.make_folder(folder / "set")
    whole = list(hostile_files.images().values())
    file = str(folder / "own.safetensors")
    own_file(Path(file), classes=("sky", "road", "my car"), palette=data.voc_palette(3))
    victim = folder / "set" / "images" / "b.jpg"
    label = folder / "set" / "labels" / "b.png"
    before = {path: path.read_bytes() for path in (victim, label)}
    odd = [text for text in ODD_TEXTS if "\0" not in text]
    odd += ["1", "0", "99999999", "1e9", "1x", "8,9", "nan"]
    options = {
        "info": ["--size", "--classes", "--backbone", "--width"],
        "train": [
            *("--widths", "--steps", "--crop", "--scale", "--padding", "--stages", "--lr"),
            *("--batch-size", "--momentum", "--jitter", "--init", "--data", "--val-split"),
        ],
        "evaluate": ["--scales", "--band", "--data", "--split", "--sheet", "--layout"],
        "predict": ["--tile"],
    }

    def make(case):
        chance = random.Random(case)
        for path, content in before.items():
            path.write_bytes(content)
        if case % 3 == 0:
            path = chance.choice(list(before))
            path.write_bytes(damaged(chance.choice([*whole, before[path]]), case))
            out = str(folder / "out")
            lines = [
                ("data", "check", spec, "--workers", "0"),
                ("data", "show", spec, "--out", str(folder / "sheet.html")),
                ("predict", file, str(victim), "--out", out),
                ("evaluate", file, "--data", f"{spec}?split=val", "--save-predictions", out),
                ("data", "convert", spec, "--out", str(folder / f"to {case}")),
            ]
            return lambda: command(*chance.choice(lines))
        name = chance.choice(list(options))
        option, value = chance.choice(options[name]), chance.choice(odd)
        first = {
            "info": ["fcn32s"],
            "train": [
                *("--data", spec, "--out", str(folder / "run"), "--overwrite"),
                *("--steps", "1", "--stages", "32s", "--widths", "1,1,1,1,1"),
            ],
            "evaluate": [file, "--data", spec],
            "predict": [file, str(victim), "--out", str(folder / "out")],
        }
        return lambda: command(name, *first[name], option, value)

    return make


def resume_reader(folder):
    """What an interrupted training goes on from: its configuration, metrics and checkpoint."""
    whole, out = folder / "whole", folder / "run"
    small = ("--widths", "1,1,1,1,1", "--stages", "32s", "--steps", "2", "--batch-size", "1")
    command(
        "train", "--data", "shapes", "--out", str(out), "--crop", "32", "--save-every", "1", *small
    )
    out.rename(whole)
    (whole / "metrics.json").unlink()  # as if it had not come to its end

    def make(case):
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(whole, out)
        path = random.Random(case).choice([out / "config.json", *(out / "checkpoints").iterdir()])
        if path.suffix == ".json":
            if case % 3 == 0:
                path.write_bytes(damaged_text(path.read_text(), case))
            else:
                path.write_text(json.dumps(damaged_value(json.loads(path.read_text()), case)))
        else:
            head, numbers = safetensors_parts(path.read_bytes())
            header = json.loads(head)
            told, name = header["__metadata__"], ("state", "facts")[case % 2]
            told[name] = json.dumps(damaged_value(json.loads(told[name]), case))
            content = safetensors(header, numbers[:-32])
            path.write_bytes(content + hashlib.sha256(content).digest())  # the seal is whole
        return lambda: command("train", "--resume", "--out", str(out))

    return make


def command(*arguments):
    """Run a command line in this process; raise unless it ends as it must."""
    out, err = io.StringIO(), io.StringIO()
    code = None
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(list(arguments))
        except SystemExit as end:
            code = end.code or 0
    said = err.getvalue()
    found_errors = code == 1 and arguments[:2] == ("data", "check") and not said
    assert code in (0, 2) or found_errors, f"exit code {code}: {said[:500]}"
    assert "minifcn: unexpected" not in said, said[:500]
    assert "Traceback" not in said, said[:500]
    assert "\x1b" not in out.getvalue() + said
    if code == 2:
        raise Error("refused")


KINDS = {
    "images": image_reader,
    "lists": list_reader,
    "mat files": mat_reader,
    "runs": run_reader,
    "weights": weight_reader,
    "commands": command_reader,
    "resumed runs": resume_reader,
}


def outcome(call, watch):
    """Return what comes of a call: "read", "refused", or what is wrong."""
    watch.noted.clear()
    start = time.perf_counter()
    watch.on = True
    try:
        call()
        found = "read"
    except Error as error:
        message = str(error)
        first = message.partition("\n")[0]
        good = first.strip() and len(message) < LONGEST and not HIDDEN.search(first)
        found = "refused" if good else f"message {message[:300]!a}"
    except BaseException as error:
        found = "".join(traceback.format_exception(error)[-4:])[-1500:]
    finally:
        watch.on = False
    if watch.noted:
        found = f"{watch.noted}"
    return {"outcome": found, "seconds": time.perf_counter() - start}


def work(kind, first, end, folder):
    warnings.simplefilter("ignore")
    os.environ["MINIFCN_MAX_PIXELS"] = str(PIXELS)
    folder = Path(folder)
    make = KINDS[kind](folder)
    watch = Watch(folder)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    os.chdir(folder)
    for case in range(first, end):
        print(case, flush=True)
        print(json.dumps(outcome(make(case), watch)), flush=True)


if __name__ == "__main__":
    work(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
