"""Verifying a data set: every sample is read, and what can be wrong is found before training."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from minifcn.data.ahead import processors
from minifcn.data.dataset import DataError, Dataset, heads_of
from minifcn.data.files import Files
from minifcn.data.sources import open_dataset, parse, published_size, splits_of
from minifcn.data.tally import Bad, Facts, Tally, look_at
from minifcn.data.workers import by_processes

WORTH_A_PROCESS = 256  # samples: to read fewer takes no longer than to start a process
SHARE = 8  # samples that a process is asked for at a time
FIRST = 5  # names in a message

Progress = Callable[[int, int], None]


class Problem(NamedTuple):
    """Something wrong: with which splits, what, and whether the data cannot be used so."""

    split: str
    text: str
    is_error: bool


class Job(NamedTuple):
    """A sample to read: its split and number, and its number in each split that holds its files."""

    split: str
    number: int
    places: dict[str, int]


@dataclass
class Report:
    """What `check` found.

    Attributes
    ----------
    source
        How the data set was named.
    splits
        The numbers of each split that could be opened, by name.
    samples
        How many there are; one whose files several splits hold counts once.
    problems
        What is wrong; errors first.
    unlisted
        How many more samples are bad than `problems` names.
    shared
        For two splits how many samples they share, where they share any.
    published
        How many images each split has as published, where that is known.
    """

    source: str
    splits: dict[str, Tally]
    samples: int = 0
    problems: list[Problem] = field(default_factory=list)
    unlisted: int = 0
    shared: dict[tuple[str, str], int] = field(default_factory=dict)
    published: dict[str, int] = field(default_factory=dict)

    @property
    def errors(self) -> int:
        """The number of errors, unlisted bad samples included."""
        return sum(problem.is_error for problem in self.problems) + self.unlisted

    @property
    def warnings(self) -> int:
        """The number of warnings."""
        return sum(not problem.is_error for problem in self.problems)

    @property
    def alike(self) -> list[Tally]:
        """The splits with the classes and channels of the first; others are an error."""
        every = list(self.splits.values())
        return [tally for tally in every if tally.kinds() == every[0].kinds()]

    def as_dict(self) -> dict[str, Any]:
        """Return everything, ready for JSON."""
        return {
            "data": self.source,
            "samples": self.samples,
            "errors": self.errors,
            "warnings": self.warnings,
            "problems": [problem._asdict() for problem in self.problems],
            "unlisted": self.unlisted,
            "splits": {
                name: {**tally.as_dict(), "published": self.published.get(name)}
                for name, tally in self.splits.items()
            },
            "shared": [
                {"splits": list(pair), "images": count} for pair, count in self.shared.items()
            ],
        }


def check(
    source: str | Mapping[str, Dataset],
    *,
    workers: int | None = None,
    progress: Progress | None = None,
    most_errors: int = 20,
) -> Report:
    """Read every sample of a data set, and report what is in it and what is wrong.

    Found are: files that cannot be read or do not fit together, splits that share images (by their
    files, their names, or exactly their pixels), a data set without held-out images, classes that
    never occur, images without labels, and numbers of images that differ from the published ones.

    Parameters
    ----------
    source
        ``"kind:PATH"``, for all its splits, ``"kind:PATH?split=NAME"`` for one; or data sets by the
        names of their splits.
    workers
        How many processes read; with 0 this one does, with None up to one for each processor. The
        result is the same.
    progress
        Called with the numbers of samples done and of all.
    most_errors
        How many bad samples to list; the others are counted.

    Raises
    ------
    DataError
        If there is no such data set at all, a process that reads is killed, or the data sets
        cannot be sent to other processes.

    Examples
    --------
    >>> report = check("shapes?split=val", workers=0)
    >>> report.splits["val"].read, report.errors
    (50, 0)
    """
    if workers is not None and workers < 0:
        raise DataError(f"workers is {workers}: it must be 0 or more")
    datasets, problems = _open_all(source) if isinstance(source, str) else (dict(source), [])
    name = source if isinstance(source, str) else ", ".join(d.name for d in datasets.values())
    report = Report(name, {n: Tally(n, d) for n, d in datasets.items()}, problems=problems)
    if isinstance(source, str):
        kind = parse(source).kind
        sizes = {n: published_size(kind, n, dataset) for n, dataset in datasets.items()}
        report.published = {n: size for n, size in sizes.items() if size is not None}
        if parse(source).split is None:
            problems += _held_out([*datasets, *(problem.split for problem in problems)])
    jobs = _jobs(datasets)
    report.samples = len(jobs)
    if workers is None:
        workers = min(processors(), len(jobs) // WORTH_A_PROCESS)
    same_pixels: dict[int, list[tuple[str, Job]]] = defaultdict(list)
    names: dict[str, set[str]] = {split: set() for split in datasets}
    listed = 0
    looks = zip(jobs, _look_at_all(datasets, jobs, workers), strict=True)
    for done, (job, found) in enumerate(looks, start=1):
        for split in job.places:
            names[split].add(found.name)
        if isinstance(found, Facts):
            for split, index in job.places.items():
                report.splits[split].add(index, found)
            same_pixels[found.fingerprint].append((found.name, job))
        elif listed < most_errors:
            listed += 1
            text = found.reason if found.name in found.reason else f"{found.name}: {found.reason}"
            problems.append(Problem(", ".join(job.places), text, True))
        else:
            report.unlisted += 1
        if progress is not None:
            progress(done, len(jobs))
    problems += _kinds_that_differ(report)
    problems += _shared_samples(report, jobs, names, datasets)
    problems += _shared_pixels([group for group in same_pixels.values() if len(group) > 1])
    for tally in report.splits.values():
        problems += _contents(tally, report.published.get(tally.name))
    problems.sort(key=lambda problem: not problem.is_error)
    return report


def must_differ(training: str, held_out: str) -> bool:
    """Tell by the names of two splits whether no image may be in both.

    >>> must_differ("train", "val"), must_differ("trainval", "val"), must_differ("trainval", "test")
    (True, False, True)
    """
    if held_out.startswith("test"):
        return training.startswith(("train", "val"))
    trained = training.startswith("train") and not training.startswith("trainval")
    return trained and held_out.startswith(("val", "seg11valid"))


def _open_all(spec: str) -> tuple[dict[str, Dataset], list[Problem]]:
    """Return the splits that can be opened, and what is wrong with the others."""
    named = parse(spec).split
    datasets, problems = {}, []
    for split in [named] if named else splits_of(spec):
        try:
            datasets[split] = open_dataset(spec, split)
        except DataError as error:
            problems.append(Problem(split, str(error), True))
    return datasets, problems


def _jobs(datasets: Mapping[str, Dataset]) -> list[Job]:
    """Return what is to be read: files that several splits hold are read once."""
    jobs: dict[Any, Job] = {}
    kinds: list[Any] = []  # the classes of the splits: the same files could have others
    for split, dataset in datasets.items():
        classes = [head.classes for head in heads_of(dataset).values()]
        if classes not in kinds:
            kinds.append(classes)
        for index in range(len(dataset)):
            files = dataset.items[index] if isinstance(dataset, Files) else None
            key = (kinds.index(classes), files) if files else (split, index)
            jobs.setdefault(key, Job(split, index, {})).places[split] = index
    return list(jobs.values())


class _Look:
    """Looks at one share of the samples after the other; it is sent to processes that read."""

    def __init__(self, datasets: Mapping[str, Dataset], places: Sequence[tuple[str, int]]) -> None:
        self.datasets, self.places = dict(datasets), places

    def __call__(self, number: int) -> list[Facts | Bad]:
        share = self.places[number * SHARE : (number + 1) * SHARE]
        return [look_at(self.datasets[split], index) for split, index in share]


def _look_at_all(
    datasets: Mapping[str, Dataset], jobs: Sequence[Job], workers: int
) -> Iterator[Facts | Bad]:
    """Yield what was noted of each sample, in order, whoever reads it."""
    look = _Look(datasets, [(job.split, job.number) for job in jobs])
    numbers = range(-(-len(jobs) // SHARE))
    workers = min(workers, len(numbers))
    shares = by_processes(look, numbers, workers, prefetch=2) if workers else map(look, numbers)
    return itertools.chain.from_iterable(shares)


def _kinds_that_differ(report: Report) -> Iterator[Problem]:
    """Find splits that have other classes or channels than the first."""
    alike = report.alike
    for name, tally in report.splits.items():
        if tally not in alike:
            text = (
                f"{alike[0].name} and {name} differ in their classes or channels: all splits of a "
                "data set must have the same"
            )
            yield Problem(f"{alike[0].name}, {name}", text, True)


def _held_out(splits: Sequence[str]) -> Iterator[Problem]:
    """Find that no split has images to measure a net on that learns from another.

    >>> [problem.text[:32] for problem in _held_out(["train", "all"])]
    ['no split has held-out images: a ']
    """
    if not any(must_differ(a, b) for a, b in itertools.permutations(splits, 2)):
        text = (
            "no split has held-out images: a net needs some that it does not learn from, to be "
            "measured on; name them in a split called val (for a folder: val.txt)"
        )
        yield Problem(", ".join(splits), text, False)


def _shared_samples(
    report: Report,
    jobs: Sequence[Job],
    names: Mapping[str, set[str]],
    datasets: Mapping[str, Dataset],
) -> Iterator[Problem]:
    """Find samples, and names of other samples, that stand in two splits."""
    for a, b in itertools.combinations(datasets, 2):
        by_name = sorted(names[a] & names[b])
        files = isinstance(datasets[a], Files) and isinstance(datasets[b], Files)
        # Without files to compare, a name is all that tells samples apart.
        count = sum(a in job.places and b in job.places for job in jobs) if files else len(by_name)
        if count:
            report.shared[a, b] = count
        if not (must_differ(a, b) or must_differ(b, a)) or not by_name:
            continue
        if count:
            yield Problem(
                f"{a}, {b}",
                f"{a} and {b} share {count} samples ({_some(by_name)}): held-out images must not "
                "be trained on: take them out of one of the two lists",
                True,
            )
        elif files:
            yield Problem(
                f"{a}, {b}",
                f"{len(by_name)} names stand in both {a} and {b} for different files "
                f"({_some(by_name)}): make sure that these are different images",
                False,
            )


def _shared_pixels(groups: Sequence[Sequence[tuple[str, Job]]]) -> Iterator[Problem]:
    """Find images that equal another pixel by pixel; ``groups`` are those that are equal."""
    leaks: dict[tuple[str, str], list[str]] = defaultdict(list)
    twins: list[str] = []
    for group in groups:
        found: dict[tuple[str, str, str], str] = {}
        for (one, job), (other, its) in itertools.permutations(group, 2):
            for a, b in itertools.product(job.places, its.places):
                if must_differ(a, b):
                    found.setdefault((a, b, other), one)
        for (a, b, other), one in found.items():
            leaks[a, b].append(f"{one} = {other}")
        if not found:
            (first, job), *others = group
            twins += [f"{first} of {job.split} = {name} of {its.split}" for name, its in others]
    for (a, b), pairs in leaks.items():
        yield Problem(
            f"{a}, {b}",
            f"{len(pairs)} images of {b} have exactly the pixels of one of {a} ({_some(pairs)}): "
            "held-out images must not be trained on: take them out of one of the two lists",
            True,
        )
    if twins:
        yield Problem(
            ", ".join(dict.fromkeys(job.split for group in groups for _, job in group)),
            f"{len(twins)} images have exactly the pixels of another ({_some(twins)}): leave out "
            "one of each two, unless they are meant to count twice",
            False,
        )


def _contents(tally: Tally, published: int | None) -> Iterator[Problem]:
    """Find what is odd about the numbers of a split."""
    if published is not None and published != tally.images:
        text = f"{tally.images} images, but {published} were published: is all of it on disk?"
        yield Problem(tally.name, text, False)
    if not tally.read:
        return
    for head, (classes, _) in tally.heads.items():
        what = f"{head} labels: " if head else ""
        absent, bare = tally.absent(head), tally.unlabelled[head]
        if len(absent) == len(classes):
            text = f"{what}no pixel is labelled, all are ignored: nothing to learn from, or score"
            yield Problem(tally.name, text, True)
            continue
        if len(absent) == len(classes) - 1 and tally.ignored(head) > 0:
            (only,) = set(classes) - set(absent)
            text = (
                f"{what}every labelled pixel is {only}, and 255, the number of "
                f"{tally.ignored(head):.0%} of all pixels, means ignored here: in masks of 0 and "
                "255, 255 must be rewritten as a class number"
            )
            yield Problem(tally.name, text, False)
        elif absent:
            text = f"{what}{len(absent)} of {len(classes)} classes never occur: {_some(absent)}"
            yield Problem(tally.name, text, False)
        if bare:
            text = f"{what}{len(bare)} images have no labelled pixel: {_some(bare)}"
            yield Problem(tally.name, text, False)


def _some(names: Sequence[str]) -> str:
    """Return the first few of a list, and how many more there are."""
    more = len(names) - FIRST
    return ", ".join(names[:FIRST]) + (f", and {more} more" if more > 0 else "")
