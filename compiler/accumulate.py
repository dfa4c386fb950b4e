"""Products that add to what is there already.

A gradient that reaches a value by several ways is a sum, mostly of products: each would be stored, and a kernel would
read them all to add them up.  A product may as well begin with what is in memory, as it does between the chunks of its
own sum: so a summand that is a product is added to the other one where that lies.  The memory of one is saved, and what
is added up stays in the cache.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import takewhile

from ..runtime.records import changed
from .loops import Constant, Kernel, Let, Load, Store, compacted, replaced, statements, without
from .memory import buffers_of, memory_of
from .nest import operand_names
from .parts import may_have_parts
from .schedule import Buffer, ScanStep, Step

Users = dict[Buffer, list[int]]         # the positions of the steps that touch each buffer, in order


def accumulate(steps: Iterable) -> tuple:
    """The steps with every sum that allows it in the memory of one of its summands."""
    made = list(steps)
    users: Users = {}
    for position, step in enumerate(made):
        for buffer in buffers_of(step):
            users.setdefault(buffer, []).append(position)
    for position in range(len(made)):
        while found := _addition(made, position, users):
            _merge(made, users, *found)
    return tuple(step for step in made if step is not None)


def _addition(steps: Sequence, position: int, users: Users) -> tuple[Buffer, Buffer, int] | None:
    """Two summands of a kernel, the memory that stays and that of products which may add to it; and how many kernels
    read them."""
    step = steps[position]
    if not _is_kernel(step):
        return None
    for _, *loads in _additions(step):
        buffers = [step.views[load.buffer].buffer for load in loads]
        for kept, added in (buffers, buffers[::-1]):
            readers = _may_add(steps, users, kept, added)
            if readers:
                return kept, added, readers
    return None


def _is_kernel(step) -> bool:
    """Whether a step is a kernel of loops: neither a scan nor a product, nor removed."""
    return isinstance(step, Step) and step.kernel is not None and step.matrix is None


def _additions(step: Step) -> Iterator[tuple[Let, Load, Load]]:
    """The additions in a kernel of two elements at one place of two buffers."""
    loads = {s.name: s for s in statements(step.code.body) if isinstance(s, Load)}
    for s in statements(step.code.body):
        if isinstance(s, Let) and s.op == "add" and s.dtype.kind == "float" and all(name in loads for name in s.args):
            first, second = (loads[name] for name in s.args)
            if _are_at_one_place(step, first, second):
                yield s, first, second


def _are_at_one_place(step: Step, first: Load, second: Load) -> bool:
    """Whether two loads read the same element of two buffers of one size."""
    one, other = step.views[first.buffer], step.views[second.buffer]
    return (isinstance(one.buffer, Buffer) and isinstance(other.buffer, Buffer) and one.buffer is not other.buffer
            and (one.buffer.size, one.dtype) == (other.buffer.size, other.dtype)
            and not (first.dynamic or second.dynamic or first.guard or second.guard)
            and (first.index + one.offset).key == (second.index + other.offset).key)


def _may_add(steps: Sequence, users: Users, kept: Buffer, added: Buffer) -> int:
    """How many kernels add the two up, if products alone write ``added``, with zeros where nothing is summed, and when
    they do nobody needs ``kept`` but those kernels; else 0."""
    writers = list(takewhile(lambda at: _is_product(steps[at], added) or _is_zero(steps[at], added),
                            users[added]))
    readers = users[added][len(writers):]
    before = users[kept][:-len(readers)]
    if not (writers and readers and before and users[kept][-len(readers):] == readers and before[-1] < writers[0]):
        return 0
    # What a scan keeps from turn to turn is not looked into.
    has_scan = any(isinstance(steps[at], ScanStep) for at in before)
    return len(readers) if not has_scan and all(_only_adds(steps[at], kept, added) for at in readers) else 0


def _is_product(step, memory: Buffer) -> bool:
    """Whether a step is a product that writes this memory, and all at once."""
    if isinstance(step, ScanStep) or step.matrix is None or step.kernel is not None:
        return False
    matrix = step.matrix
    return (matrix.c.buffer is memory and memory not in (matrix.a.buffer, matrix.b.buffer)
            and not may_have_parts(matrix))


def _is_zero(step, memory: Buffer) -> bool:
    """Whether a step stores zeros in this memory and does nothing else."""
    if not _is_kernel(step) or memory_of(step) != {memory}:
        return False
    leaves = [s for s in statements(step.kernel.body) if not hasattr(s, "body")]
    return all(isinstance(s, Store) or (isinstance(s, Constant) and s.value == 0) for s in leaves)


def _only_adds(step, kept: Buffer, added: Buffer) -> bool:
    """Whether a step does nothing with two buffers but to add up their elements, and does more than to store that: it
    would copy, where now it adds in place."""
    if not _is_kernel(step):
        return False
    sums = _sums(step, kept, added)
    names = Counter(name for s in statements(step.code.body) for name in operand_names(s))
    touched = sum(step.views[s.buffer].buffer in (kept, added) for s in statements(step.code.body)
                  if hasattr(s, "buffer"))
    stored = {s.value for s in statements(step.code.body) if isinstance(s, Store)}
    return (touched == 2 * len(sums) > 0 and stored.isdisjoint(let.name for let, *_ in sums)
            and all(names[load.name] == 1 for _, *loads in sums for load in loads))


def _sums(step: Step, kept: Buffer, added: Buffer) -> list[tuple[Let, Load, Load]]:
    """A kernel's additions of the elements of these two buffers."""
    return [found for found in _additions(step)
            if {step.views[load.buffer].buffer for load in found[1:]} == {kept, added}]


def _merge(steps: list, users: Users, kept: Buffer, added: Buffer, readers: int) -> None:
    """Let the products that write ``added`` add to ``kept``, and its readers read that alone."""
    positions = users.pop(added)
    for at in positions[:-readers]:
        matrix = steps[at].matrix
        if matrix is None:          # zeros
            steps[at] = None
            continue
        target = changed(matrix.c, buffer=kept)
        steps[at] = replace(steps[at], views=(matrix.a, matrix.b, target),
                            matrix=changed(matrix, c=target, accumulates=True))
    for at in positions[-readers:]:
        steps[at] = _with_one(steps[at], kept, added)
    users[kept] = sorted({*users[kept], *(at for at in positions if steps[at] is not None)})


def _with_one(step: Step, kept: Buffer, added: Buffer) -> Step:
    """A kernel without its additions of the elements of two buffers: it reads the sums from one."""
    sums = _sums(step, kept, added)
    views = tuple(view for view in step.views if view.buffer is not added)
    totals = {load.name: let.name for let, *loads in sums for load in loads if step.views[load.buffer].buffer is kept}
    removed = {let.name for let, *_ in sums} | {load.name for _, *loads in sums for load in loads
                                                if load.name not in totals}

    def rewritten(s):
        if isinstance(s, Load) and s.name in totals:
            s = changed(s, name=totals[s.name])
        return changed(s, buffer=views.index(step.views[s.buffer])) if hasattr(s, "buffer") else s
    body = replaced(without(step.code.body, removed), rewritten)
    return replace(step, views=views, kernel=Kernel(tuple(view.dtype for view in views), compacted(body)))
