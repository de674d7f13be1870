"""The command line: what it prints, where, and with which exit code."""

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

import minifcn
from minifcn import about, cli, data, gradcheck, models, weights

SHAPES = data.shapes("val")


@pytest.fixture
def net(tmp_path):
    """A weight file for the shapes data set; the net finds the background by its colour."""
    rng = np.random.default_rng(0)
    model = models.fcn8s(num_classes=4, backbone="small", widths=(4, 4, 8, 8, 8), rng=rng)
    model.score_fr.weight.data[...] = rng.normal(size=model.score_fr.weight.shape)
    path = tmp_path / "net.safetensors"
    weights.save(
        model, path, classes=SHAPES.classes, palette=SHAPES.palette, preprocessing=data.UNIT
    )
    return path


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    Image.fromarray(SHAPES[0].image).save(path)
    return path


@pytest.fixture
def run(capsys):
    """Run a command line in this process; returns (exit code, stdout, stderr)."""

    def run(*arguments):
        with pytest.raises(SystemExit) as caught:
            cli.main([str(argument) for argument in arguments])
        return (caught.value.code or 0, *capsys.readouterr())

    return run


def fails(result, *parts, code=2):
    """Check that a command printed one error, without a traceback, and nothing else."""
    assert result[:2] == (code, "")
    assert result[2].startswith("minifcn: error: ")
    assert "Traceback" not in result[2]
    for part in parts:
        assert str(part) in result[2]


def start(*arguments, **options):
    """Run a command line in another process, as a user does."""
    return subprocess.run(
        [sys.executable, "-m", "minifcn", *map(str, arguments)],
        capture_output=True,
        text=True,
        **options,
    )


# The program as a whole


def test_version(run):
    assert run("--version") == (0, f"minifcn {minifcn.__version__}\n", "")


def test_help_lists_the_commands(run):
    code, out, _ = run("--help")
    assert code == 0
    for command in ("demo", "train", "evaluate", "predict", "gradcheck", "info"):
        assert f" {command} " in out


@pytest.mark.parametrize("command", ["demo", "train", "evaluate", "predict", "gradcheck", "info"])
def test_help_of_each_command_shows_an_example(run, command):
    code, out, _ = run(command, "--help")
    assert code == 0
    assert f"minifcn {command}" in out[out.index("Example") :]


def test_nothing_given_shows_the_help(run):
    _, out, err = run()
    assert "Usage: minifcn" in out + err


def test_unknown_command(run):
    code, out, err = run("fly")
    assert (code, out) == (2, "")
    assert "No such command 'fly'" in err


def test_import_stays_light():
    code = "import sys, minifcn.cli; print('rich.table' in sys.modules, 'PIL' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.stdout == "False False\n"


def test_output_in_a_pipe_has_no_colours():
    answer = start("gradcheck", "add", "relu")
    assert answer.returncode == 0
    assert "PASS" in answer.stdout
    assert "\x1b" not in answer.stdout + answer.stderr


# Errors


def test_debug_shows_the_traceback_wherever_it_stands(run):
    for line in (("--debug", "info", "nowhere"), ("info", "nowhere", "--debug")):
        code, _, err = run(*line)
        assert code == 2
        assert "Traceback" in err
        assert "CommandError: nowhere" in err


def test_an_unexpected_error_is_one_line_that_names_debug(run, monkeypatch):
    def broken():
        raise ZeroDivisionError("by accident")

    monkeypatch.setattr(about, "machine", broken)
    code, out, err = run("info")
    assert (code, out) == (1, "")
    assert err == "minifcn: unexpected ZeroDivisionError: by accident; run again with --debug\n"
    code, _, err = run("info", "--debug")
    assert code == 1
    assert "Traceback" in err


def test_an_operating_system_error_is_one_line(run, monkeypatch):
    def broken():
        raise OSError(28, "No space left on device", "a.png")

    monkeypatch.setattr(about, "machine", broken)
    fails(run("info"), "No space left on device", "a.png")


def test_notes_of_an_error_are_shown(run, monkeypatch):
    def broken():
        error = minifcn.Error("first")
        error.add_note("second")
        raise error

    monkeypatch.setattr(about, "machine", broken)
    fails(run("info"), "first\n  second\n")


def test_ctrl_c(run, monkeypatch):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(about, "machine", interrupted)
    assert run("info") == (130, "", "minifcn: interrupted\n")


def test_ctrl_c_in_a_process_of_its_own():
    code = (
        "import signal\n"
        "from minifcn import cli, gradcheck\n"
        "gradcheck.check_primitive = lambda *_: signal.raise_signal(signal.SIGINT)\n"
        "cli.main(['gradcheck', 'add'])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (answer.returncode, answer.stdout) == (130, "")
    assert answer.stderr == "minifcn: interrupted\n"


# predict


def test_predict(run, net, photo, tmp_path):
    (tmp_path / "folder").mkdir()
    photo.rename(tmp_path / "folder" / "photo.png")
    (tmp_path / "folder" / "notes.txt").touch()
    (tmp_path / "folder" / "more").mkdir()
    code, out, err = run("predict", net, tmp_path / "folder", "--out", tmp_path / "out")
    assert code == 0
    assert "1 image labelled" in out
    assert "photo_overlay.png" in out
    assert err.splitlines() == [
        f"minifcn: skipped {tmp_path}/folder/more: a folder",
        f"minifcn: skipped {tmp_path}/folder/notes.txt: not an image",
    ]
    assert data.read_label(tmp_path / "out" / "photo.png").shape == (64, 64)
    assert (tmp_path / "out" / "photo_overlay.png").is_file()


def test_predict_in_tiles(run, net, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 401, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    told = {}
    for tile in ("300", "off", "auto"):
        code, told[tile], _ = run(
            "predict", net, tmp_path / "wide.png", "--out", tmp_path / tile, "--tile", tile
        )
        assert code == 0
    assert (
        "wide.png: the net saw 5 tiles of at most 40 x 288 pixels (height x width)" in told["300"]
    )
    assert "the net saw" not in told["off"] + told["auto"]
    tiled, whole = (data.read_label(tmp_path / tile / "wide.png") for tile in ("300", "off"))
    assert (tiled != whole).mean() < 1e-3


@pytest.mark.parametrize("tile", ["-1", "0", "big", "1.5", ""])
def test_tiles_of_no_size(run, net, photo, tmp_path, tile):
    fails(run("predict", net, photo, "--out", tmp_path, f"--tile={tile}"), "must be auto, off, or")


def test_tiles_that_are_too_small(run, net, tmp_path):
    Image.new("RGB", (401, 40)).save(tmp_path / "wide.png")
    answer = run("predict", net, tmp_path / "wide.png", "--out", tmp_path / "out", "--tile", "64")
    fails(answer, "tile=64 is too small", "at least 40 x 288")


def test_missing_weights(run, photo, tmp_path):
    fails(run("predict", tmp_path / "no", photo, "--out", tmp_path), "no: no such file")


def test_wrong_weights(run, photo, tmp_path):
    fails(run("predict", photo, photo, "--out", tmp_path / "out"), photo, "a PNG image")


def test_weights_that_are_not_finite(run, net, photo, tmp_path):
    with weights.header.opened(net) as (file, _):
        metadata = file.metadata()
    tensors = load_file(net)
    tensors["fc7.bias"][0] = np.nan
    save_file(tensors, net, metadata)
    fails(run("predict", net, photo, "--out", tmp_path / "out"), "fc7.bias", "not finite")
    assert not (tmp_path / "out").exists()


def test_missing_image(run, net, tmp_path):
    fails(run("predict", net, tmp_path / "a.jpg", "--out", tmp_path / "out"), "a.jpg: no such file")


def test_unreadable_image(run, net, tmp_path):
    (tmp_path / "a.jpg").write_text("not a picture")
    result = run("predict", net, tmp_path / "a.jpg", "--out", tmp_path / "out")
    fails(result, "a.jpg: not an image: 13 bytes of no known image format")


def test_truncated_image(run, net, photo, tmp_path):
    photo.write_bytes(photo.read_bytes()[:500])
    fails(run("predict", net, photo, "--out", tmp_path / "out"), photo, "damaged or cut short")


def test_image_without_pixels(run, net, tmp_path):
    (tmp_path / "a.ppm").write_bytes(b"P6 0 5 255\n")
    fails(run("predict", net, tmp_path / "a.ppm", "--out", tmp_path / "out"), "a.ppm")


def test_several_unreadable_images(run, net, photo, tmp_path):
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).touch()
    result = run("predict", net, tmp_path, "--out", tmp_path / "out")
    assert result[0] == 2
    assert "2 of 3 images could not be read" in result[2]
    assert f"  {tmp_path}/b.jpg: not an image: the file is empty" in result[2]
    assert (tmp_path / "out" / "photo.png").is_file()


def test_folder_that_cannot_be_made(run, net, photo):
    fails(run("predict", net, photo, "--out", net / "out"), net / "out", "Not a directory")


def test_results_that_would_replace_an_image(run, net, photo, tmp_path):
    fails(run("predict", net, photo, "--out", tmp_path), "is one of the images")


@pytest.mark.parametrize("command", ["predict", "evaluate"])
def test_unknown_device(run, net, photo, tmp_path, command):
    rest = [photo, "--out", tmp_path / "o"] if command == "predict" else ["--data", "shapes"]
    fails(run(command, net, *rest, "--device", "tpu"), "unknown device 'tpu'")


# gradcheck


def test_gradcheck_prints_all_errors(run):
    code, out, err = run("gradcheck", "linear", "exp", "--seed", "3")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    (linear,) = (line.split() for line in lines if line.startswith("linear"))
    (exp,) = (line.split() for line in lines if line.startswith("exp"))
    assert len(linear) == len(exp) == 7
    assert linear[-1] == exp[-1] == "PASS"
    assert all(float(number) < 1e-6 for number in linear[2:6])
    assert exp[5] == "-"  # not linear: no adjoint
    assert "All passed." in out


def test_gradcheck_fails_with_exit_code_1(run, monkeypatch):
    def wrong(primitive, rng):
        return gradcheck.PrimitiveReport(primitive.name, 1, 0.0, 0.5, None, None)

    monkeypatch.setattr(gradcheck, "check_primitive", wrong)
    code, out, _ = run("gradcheck", "add", "mul")
    assert code == 1
    assert out.count("FAIL") == 2
    assert "2 of 2 failed: add, mul" in out


def test_gradcheck_of_all_operations(run, monkeypatch):
    seen = []

    def note(primitive, rng):
        seen.append(primitive.name)
        return gradcheck.PrimitiveReport(primitive.name, 1, 0.0, 0.0, None, None)

    monkeypatch.setattr(gradcheck, "check_primitive", note)
    assert run("gradcheck")[0] == 0
    assert seen == sorted(seen)
    assert {"conv2d", "conv_transpose2d", "max_pool2d", "cross_entropy"} <= set(seen)


def test_gradcheck_of_an_unknown_operation(run):
    fails(run("gradcheck", "conv3d"), "no operation is called 'conv3d'", "conv2d")


# info


def test_info_about_this_machine(run):
    code, out, _ = run("info")
    assert code == 0
    for text in (minifcn.__version__, np.__version__, "BLAS", "threads", "GPU", "landcover: 181"):
        assert text in out


def test_info_names_the_file_that_weights_were_made_from(run, net, tmp_path):
    code, _, _ = run("convert", net, tmp_path / "five.safetensors", "--classes", "5")
    assert code == 0
    _, out, _ = run("info", tmp_path / "five.safetensors")
    assert f"sha256 {hashlib.sha256(net.read_bytes()).hexdigest()}" in out


def test_info_about_a_weight_file(run, net):
    code, out, _ = run("info", net)
    assert code == 0
    for text in ("fcn8s(num_classes=4", "background, circle", "RGB, (pixel / 255 - mean)"):
        assert text in out
    assert f"{weights.load(net).model.num_parameters():,} numbers" in out


def test_info_about_the_net_of_the_paper(run):
    code, out, _ = run("info", "fcn8s")
    assert code == 0
    for text in ("134,489,759", "404 x 404", "cropped by 5\n", "cropped by 9\n", "cropped by 31 "):
        assert text in out
    assert " MB for an image of 500 x 500 pixels" in out
    rows = {" ".join(line.split()) for line in out.splitlines()}
    assert "conv1_1 Conv2d 3 1 100 64 x 698 x 698 1,792 3 124.7 1.68" in rows
    assert "pool5 MaxPool2d 2 2 0 512 x 22 x 22 212 1.0" in rows
    assert "all 134,489,759 624.8 363.06" in rows


def test_info_about_a_small_net(run):
    code, out, _ = run("info", "fcn32s", "--backbone", "small", "--classes", "3")
    assert code == 0
    assert "fcn32s(num_classes=3, backbone=small, widths=(24, 48, 64, 96, 96)," in out
    assert "none" in out[out.index("skips") :]
    assert " MB for an image of 128 x 128 pixels" in out


@pytest.mark.parametrize(
    ("arguments", "texts"),
    [
        (("googlenet",), ("googlenet(num_classes=1000,", "6,998,552", "inception_5b.pool_proj")),
        (("vgg16", "--size", "64", "--width", "0.125"), ("image_size=64", "64 x 2 x 2")),
        (("fcn16s", "--backbone", "caffenet", "--width", "0.1"), ("355 x 355", "norm2")),
    ],
)
def test_info_about_classifiers_and_narrow_nets(run, arguments, texts):
    code, out, _ = run("info", *arguments)
    assert code == 0
    for text in texts:
        assert text in out


def test_info_about_memory(run, net):
    code, out, _ = run("info", "fcn8s", "--backbone", "small", "--size", "375x500")
    assert code == 0
    for text in (
        "inference ",
        "training step ",
        " MB for an image of 375 x 500 pixels",
        " MB buffers",
    ):
        assert text in out
    code, out, _ = run("info", net, "--size", "500")
    assert code == 0
    assert " MB for an image of 500 x 500 pixels" in out
    assert "score_pool3 + upscore_pool4" in out


@pytest.mark.parametrize("size", ["0", "x", "3x", "x3", "3x4x5", "-3", "big"])
def test_info_about_no_size(run, size):
    fails(run("info", "fcn8s", f"--size={size}"), f"--size {size}: it must be", "375x500")


@pytest.mark.parametrize("option", ["--size", "--classes", "--width", "--backbone"])
def test_info_about_nothing_with_an_option(run, option):
    fails(run("info", option, "500"), f"{option} 500", "name the model, or the weight file")


def test_info_about_an_image_that_a_classifier_does_not_take(run):
    fails(run("info", "alexnet", "--size", "300x400"), "--size 300x400", "square images only")
    fails(run("info", "alexnet", "--size", "20"), "image_size=20 is too small")


def test_info_with_options_that_do_not_apply(run, net):
    fails(run("info", "vgg16", "--backbone", "small"), "vgg16 is a classifier, not an FCN")
    fails(run("info", "fcn8s", "--backbone", "small", "--width", "2"), "has widths of its own")
    fails(run("info", net, "--classes", "3"), "is a net already", "--classes")
    fails(run("info", "late_fusion"), "late_fusion has two nets", "weight file")


def test_info_about_a_net_that_cannot_be(run):
    fails(run("info", "fcn32s", "--backbone", "resnet"), "backbone='resnet'")


def test_info_about_nothing_known(run):
    fails(run("info", "nowhere"), "nowhere: no such file, and no model", "fcn16s")


def test_info_about_another_file(run, photo):
    fails(run("info", photo), "a PNG image")


def test_no_warning_without_a_forced_core(monkeypatch):
    monkeypatch.delenv("OPENBLAS_CORETYPE", raising=False)
    assert about.blas_warning() is None


def test_a_forced_core_is_told():
    blas = [found for found in about._blas() if "architecture" in found]
    if not blas or blas[0]["architecture"] in ("Nehalem", "Prescott", "Core2"):
        pytest.skip("needs an OpenBLAS with better kernels than the ones forced here")
    answer = start("info", env={**os.environ, "OPENBLAS_CORETYPE": "Nehalem"})
    assert answer.returncode == 0
    assert "OPENBLAS_CORETYPE=Nehalem" in answer.stderr
    assert "unset it" in answer.stderr
