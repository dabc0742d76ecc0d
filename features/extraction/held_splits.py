"""Drawn splits that stay as they are in the store, so that no image that was tested on is trained on later."""

from __future__ import annotations

from dataclasses import replace

from ..errors import counted
from ..splits import SPLITS, join_keys
from ..store.reader import FeatureStore
from .plan import Plan
from .request import ExtractRequest


def keep_held_splits(plan: Plan, options: ExtractRequest) -> Plan:
    """Return the plan with each content in the split that it has in the store, wherever it lies and whatever its class now is.

    Only splits that are drawn are kept, and only while they would be drawn in the same way: by the same seed and group. What is
    new goes with the rest of its unit, its copies and its group; otherwise where it was drawn. A unit that the store has in
    several splits, such as images whose group was corrected, is drawn anew as a whole.
    """
    source = plan.source
    if not source.drawn or not options.path.exists():
        return plan
    with FeatureStore(options.path) as store:
        held, made = store.rows.images(), store.made
    if made.seed != options.seed or made.origin is None or made.origin.group != source.group:
        return plan
    drawn = {SPLITS["train"], *(SPLITS[name] for name in source.drawn)}
    of_content = {
        sha256.tobytes(): split
        for sha256, split in zip(held.sha256, held.splits.tolist(), strict=True)
        if split in drawn
    }
    contents = [key if isinstance(key, bytes) else path for key, path in zip(plan.keys, source.paths, strict=True)]
    units, splits = join_keys(source.side_keys, contents), source.splits.copy()
    sides: dict[str | bytes, set[int]] = {}
    for unit, content in zip(units, contents, strict=True):
        if content in of_content:
            sides.setdefault(unit, set()).add(of_content[content])
    for row, unit in enumerate(units):
        if splits[row] in drawn and len(sides.get(unit, ())) == 1:
            (splits[row],) = sides[unit]
    moved = int((splits != source.splits).sum())
    if not moved:
        return plan
    note = f"kept {counted(moved, 'image')} in the split that they or their group have in {options.path.name}; drawn anew, they would be in another"
    return replace(plan, source=replace(source, splits=splits, notes=(*source.notes, note)))
