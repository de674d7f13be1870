"""Arrays of a foreign file on their way into a net: all of them fit, or an error lists the rest."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..models import FCN, Classifier
from ..models.surgery import Line, is_score
from ..nn import Parameter
from .header import WeightsError, title
from .keymaps import Named, Source
from .pieces import Progress, check_finite, copy_rows, release
from .transforms import fits, fitted, is_bilinear, scale_scores, ungrouped

LISTED = 20  # of many arrays that do not fit, so many are named in a message
ONLY_IN_CLASSIFIERS = ("fc8", "loss3_classifier", "loss1", "loss2")
"""Scores that trunks have no use for, and heads that only training has."""


class Filling:
    """The arrays of a file, and a net for them: first `check`, then `fill`.

    Parameters
    ----------
    path
        The file, for messages.
    named
        Its arrays by our names.
    net
        Where they go.
    new_scores
        Leave the file's scores out, and start with zeros.

    Attributes
    ----------
    net
        May be replaced, after `check`, by one like it with other starting weights.
    """

    def __init__(
        self, path: Path, named: Named, net: FCN | Classifier, new_scores: bool = False
    ) -> None:
        self.path, self.named, self.net = path, named, net
        self.sources = dict(named.sources)
        is_fcn = isinstance(net, FCN)
        last = "" if isinstance(net, FCN) else list(net.chain())[-1]
        names = [name for name, _ in net.named_parameters()]
        self.scores = {n for n in names if (is_score(n) if is_fcn else n.startswith(f"{last}."))}
        self.new = self.scores if new_scores else set()
        self.missing: list[str] = []
        self.lines: list[Line] = []  # of what is not a parameter of the net

    def check(self, strict: bool = True) -> list[str]:
        """Return the parameters that the file has nothing for; none if ``strict``.

        Raises
        ------
        WeightsError
            If arrays do not fit, or if ``strict`` and arrays or parameters are left over; it lists
            them.
        """
        parameters = dict(self.net.named_parameters())
        self._scale_scores()
        self._ungroup(parameters)
        used = parameters.keys() - self.new
        dropped = {n: self.sources.pop(n) for n in [*self.sources] if n not in used}
        self.missing = [n for n in parameters if n not in self.sources and n not in self.new]
        wrong = []
        for name, source in self.sources.items():
            if source.array.dtype.kind != "f":
                wrong.append(f"{source.raw} holds {source.array.dtype} numbers")
            elif not fits(source.array, parameters[name].shape):
                wrong.append(
                    f"{source.raw} {source.array.shape} does not fit {name} "
                    f"{parameters[name].shape}"
                )
        if strict:
            wrong += [f"nothing for {name} {parameters[name].shape}" for name in self.missing]
            unexpected = [dropped[name].raw for name in dropped if not self._is_harmless(name)]
            wrong += [f"no use for {raw}" for raw in [*unexpected, *self.named.unknown]]
        self._raise_if_any(wrong, strict)
        left = [*((s.raw, s.array) for s in dropped.values()), *self.named.unknown.items()]
        self.lines += [Line(raw, "dropped", str(array.shape)) for raw, array in left]
        return self.missing

    def _is_harmless(self, name: str) -> bool:
        """Tell whether an array is left out as a matter of course."""
        scores = bool(self.new) and is_score(name)
        return name in self.new or scores or name.partition(".")[0] in ONLY_IN_CLASSIFIERS

    def _raise_if_any(self, wrong: list[str], strict: bool) -> None:
        if not wrong:
            return
        listed = wrong[:LISTED]
        listed += [f"... and {len(wrong) - LISTED} more"] if len(wrong) > LISTED else []
        if all(line.startswith(("nothing", "no use")) for line in wrong):
            listed.append(
                "strict=False (--no-strict) starts such parameters at random numbers, and"
            )
            listed.append("leaves such arrays out")
        raise WeightsError(
            f"{self.path}: its arrays are not those of {title(self.net.config)}"
            + "".join(f"\n  {line}" for line in listed)
        )

    def _scale_scores(self) -> None:
        """Heed the Scale layers of a Caffe file: the net has them, or they are built in."""
        for skip in getattr(self.net, "skips", ()):
            scale = self.sources.pop(f"scale_{skip.tap}.weight", None)
            if scale is None:
                continue
            factors = scale.array.reshape(-1) / skip.scale
            if np.allclose(factors, 1, rtol=1e-6, atol=0):
                self.lines.append(Line(scale.raw, "checked", f"all {skip.scale:g}, as in the net"))
                continue
            for name in [n for n in self.sources if n.startswith(skip.score) and "weight" in n]:
                old = self.sources[name]
                if old.array.ndim == 4 and old.array.shape[1] == len(factors):
                    array = scale_scores(old.array, factors)
                    self.sources[name] = Source(f"{old.raw} times {scale.raw}", array, "scaled")

    def _ungroup(self, parameters: Mapping[str, Parameter]) -> None:
        """Give upsampling layers of one group per class a full weight."""
        for name in self.scores & self.sources.keys():
            old = self.sources[name]
            full = ungrouped(old.array, parameters[name].shape)
            if full is not None:
                self.sources[name] = Source(f"{old.raw}, one group per class", full, "reshaped")

    def fill(self, progress: Progress | None = None) -> list[Line]:
        """Put the arrays into the net; return what became of each parameter and each array.

        Raises
        ------
        WeightsError
            If numbers are not finite.
        """
        parameters = dict(self.net.named_parameters())
        done, total = 0, sum(parameter.data.nbytes for parameter in parameters.values())
        lines = []
        for name, parameter in parameters.items():
            # Each array is forgotten when it is used: some were made for this alone.
            source = self.sources.pop(name, None)
            lines.append(
                self._start(name, parameter)
                if source is None
                else self._put(name, parameter, source)
            )
            done += parameter.data.nbytes
            if progress is not None:
                progress(done, total)
        return lines + self.lines

    def _start(self, name: str, parameter: Parameter) -> Line:
        """Let a parameter that nothing is put into start as it should."""
        bilinear = name in self.scores and is_bilinear(parameter.data)
        if name in self.new and not bilinear:
            parameter.data[...] = 0
        start = "bilinear" if bilinear else "random" if parameter.data.any() else "zeros"
        return Line(name, "new", f"{parameter.shape}, {start}")

    def _put(self, name: str, parameter: Parameter, source: Source) -> Line:
        """Put an array into a parameter."""
        check_finite(np.atleast_1d(source.array), source.raw, self.path)
        array, data = source.array, parameter.data
        if array.ndim == 4 and data.ndim == 2:
            data = data.reshape(array.shape)  # (O, C*h*w) -> (O, C, h, w): a view
        else:
            fitting = fitted(array, data.shape)
            assert fitting is not None  # check() has asked
            array = fitting
        copy_rows(data, array)
        release(source.array)
        there, here = source.array.shape, parameter.shape
        detail = str(here) if there == here else f"{there} -> {here}"
        if source.array.dtype != parameter.dtype:
            detail += f", {source.array.dtype} -> {parameter.dtype}"
        if source.raw != name:
            detail += f" from {source.raw}"
        if name in self.scores and not parameter.requires_grad and not is_bilinear(parameter.data):
            detail += ", which is not bilinear, though it is not learned here"
        what = source.changed or ("copied" if there == here else "reshaped")
        return Line(name, what, detail)
