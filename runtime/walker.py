"""The native code that walks a program; see ``runner``.  This module is imported only to compile."""

from __future__ import annotations

from .entry import (
    ARRAY_DATA,
    ARRAY_DTYPE,
    ARRAY_FLAGS,
    ARRAY_RANK,
    ARRAY_SHAPE,
    ARRAY_TYPE,
    CONTROL,
    EMPTY,
    EPOCH,
    FIRST_FORM,
    FIRST_INPUT,
    FORM_COUNT,
    FRAME,
    HALF,
    INPUT_BYTES,
    INPUT_LIMIT,
    INPUT_NAME,
    INPUT_PLACE,
    INPUT_RANK,
    INPUT_SHAPE,
    INPUT_TYPE,
    INPUTS,
    LONG_WAY,
    MAKE,
    MOST_OUTPUTS,
    NOW,
    OBJECT_TYPE,
    ORDERED,
    OUTPUT_KIND,
    OUTPUT_WORDS,
    OUTPUTS,
    POSITIONAL,
    PROGRAM,
    RELEASES,
    RUNNING,
    TUPLE_ITEMS,
    TUPLE_SIZE,
    WAKE,
)
from .kinds import int64
from .machine import Object
from .native import (
    ARGS,
    BASES,
    KERNEL,
    bases_at,
    call_kernel,
    call_object,
    compile_native,
    enter_interpreter,
    exchange,
    fetch_add,
    ints_at,
    is_something,
    least,
    leave_interpreter,
    load_acquire,
    most,
    nanoseconds,
    nothing,
    order_of_texts,
    pause,
    release,
    restore_flushing,
    sched_yield,
    set_base,
    set_flushing,
    stack_words,
    store_release,
    words_at,
)
from .runner import (
    ACTIVE,
    ANSWERING,
    ASLEEP,
    BACK,
    BUSY,
    COUNTER_WORDS,
    CURRENT,
    DONE,
    JOB_BASES,
    JOB_PROGRAM,
    NUMBER,
    OCCUPIED,
    OPEN,
    PROGRAM_ARGS,
    PROGRAM_COUNT,
    PROGRAM_COUNTERS,
    PROGRAM_ENDS,
    PROGRAM_FLUSHES,
    PROGRAM_STEPS,
    SLEEPERS,
    STEP_WORDS,
    STOP,
)

_KEEN = 20_000          # nanoseconds after which a worker without a job gives up its time slice at each look
_PAUSES = 250           # spins (some 10 us) after which a waiting thread gives up its time slice at each look


def _wait(words, index, value):
    """Wait until words[index] >= value."""
    spins = 0
    while load_acquire(words, index) < value:
        pause()
        spins += 1
        if spins > _PAUSES:
            sched_yield()


def _claims(counter):
    """How many pieces of a step are claimed: the count of those from the front and, times BACK, from the back."""
    return counter % BACK + counter // BACK


def _walk(control, place, times, timed):
    """Do steps from the current one to the last of the job that ``control`` describes.

    ``place`` is the thread's number, 0 the caller's.  Even ones claim a step's pieces from its front on, odd ones from
    its back: so a thread meets in its caches what it computed in the step before, and the weights of the last call.
    """
    program, bases = words_at(control, JOB_PROGRAM), bases_at(control, JOB_BASES)
    steps, count, args = words_at(program, PROGRAM_STEPS), program[PROGRAM_COUNT], words_at(program, PROGRAM_ARGS)
    counters, ends = words_at(program, PROGRAM_COUNTERS), words_at(program, PROGRAM_ENDS)
    claim = 1 if place % 2 == 0 else BACK
    clock = nanoseconds() if timed else 0
    flushing = set_flushing(program[PROGRAM_FLUSHES])
    step = load_acquire(control, CURRENT)
    while step < count:
        if place == 0:
            store_release(control, CURRENT, step)
        row, claimed, following = step * STEP_WORDS, step * COUNTER_WORDS, ends[step]
        done, is_run = claimed + 1, following > step + 1
        units, grain = 1 if is_run else steps[row + 2], most(steps[row + 3], 1)
        pieces = (units + grain - 1) // grain
        while _claims(load_acquire(counters, claimed)) < pieces:
            before = fetch_add(counters, claimed, claim)
            if _claims(before) >= pieces:
                break
            piece = before % BACK if claim == 1 else pieces - 1 - before // BACK
            begin = piece * grain
            end = least(begin + grain, units)
            if is_run:
                for inner in range(step, following):
                    _do(steps, args, bases, inner)
            else:
                call_kernel(steps, row, bases, args, steps[row + 1], begin, end)
            fetch_add(counters, done, end - begin)
        _wait(counters, done, units)
        if timed:
            now = nanoseconds()
            times[step] += now - clock
            clock = now
        step = following
    restore_flushing(flushing)


def _do(steps, args, bases, step):
    """Do all of a step."""
    row = step * STEP_WORDS
    if steps[row + 2] > 0:
        call_kernel(steps, row, bases, args, steps[row + 1], 0, steps[row + 2])


def _do_all(program, bases, times, timed):
    """Do every step; with ``timed``, add its nanoseconds to times[step]."""
    steps, args = words_at(program, PROGRAM_STEPS), words_at(program, PROGRAM_ARGS)
    before = set_flushing(program[PROGRAM_FLUSHES])
    clock = nanoseconds() if timed else 0
    for step in range(program[PROGRAM_COUNT]):
        _do(steps, args, bases, step)
        if timed:
            now = nanoseconds()
            times[step] += now - clock
            clock = now
    restore_flushing(before)


def _define_serial():
    def serial(program, bases):
        _do_all(program, bases, program, False)
    return serial


def _define_timed():
    def timed(program, bases, times):
        _do_all(program, bases, times, True)
    return timed


def _begin(control, program, bases):
    """Describe a job, whose program and bases are addresses as integers, and let the workers in; or say why not."""
    answer = OCCUPIED
    if load_acquire(control, STOP) == 0 and exchange(control, BUSY, 1) == 0:
        if load_acquire(control, STOP) == 0:
            answer = DONE if load_acquire(control, ASLEEP) == 0 else SLEEPERS
        if answer == DONE:
            control[JOB_PROGRAM] = program
            control[JOB_BASES] = bases
            block = words_at(control, JOB_PROGRAM)
            counters = words_at(block, PROGRAM_COUNTERS)
            for i in range(block[PROGRAM_COUNT] * COUNTER_WORDS):
                counters[i] = 0
            control[NUMBER] += 1
            store_release(control, CURRENT, 0)
            exchange(control, OPEN, control[NUMBER])
        else:
            store_release(control, BUSY, 0)
    return answer


def _end(control):
    """Let nobody in any more and wait until all have left: they may not look at the counters when the next job clears
    them.  A worker counts itself in before it looks at OPEN a second time, so once OPEN is 0 and ACTIVE is 0 all
    have."""
    exchange(control, OPEN, 0)
    spins = 0
    while load_acquire(control, ACTIVE) != 0:
        pause()
        spins += 1
        if spins > _PAUSES:
            sched_yield()
    store_release(control, BUSY, 0)


def _share(control, program, bases):
    """The caller's side of a job; gives how it was answered."""
    answer = _begin(control, program, bases)
    if answer == DONE:
        _walk(control, 0, control, False)
        _end(control)
    return answer


def _define_parallel():
    def parallel(control, program, bases):
        answer = _share(control, program, bases)
        return answer
    return parallel


def _define_parallel_timed():
    def parallel_timed(control, program, bases, times):
        """``parallel``, adding each step's nanoseconds to times[step]."""
        answer = _begin(control, program, bases)
        if answer == DONE:
            _walk(control, 0, times, True)
            _end(control)
        return answer
    return parallel_timed


def _define_work():
    def work(control, patience, place):
        """The side of the worker of this number, from 1 on: join jobs as they come; return after ``patience``
        nanoseconds without one, or at STOP."""
        seen = 0
        quiet_since = nanoseconds()
        while load_acquire(control, STOP) == 0:
            job = load_acquire(control, OPEN)
            if job != 0 and job != seen:
                fetch_add(control, ACTIVE, 1)
                job = load_acquire(control, OPEN)
                if job != 0:
                    _walk(control, place, control, False)
                fetch_add(control, ACTIVE, -1)
                seen = job
                quiet_since = nanoseconds()
            else:
                for _ in range(8):
                    pause()
                quiet = nanoseconds() - quiet_since
                if quiet > patience:
                    break
                # The caller may need this very core.
                if quiet > _KEEN:
                    sched_yield()
    return work


def _define_region():
    def region(bases, args, begin, end):
        for unit in range(begin, end):
            for step in range(args[0]):
                row = 1 + step * STEP_WORDS
                first = unit * args[row + 3]
                if first < args[row + 2]:
                    call_kernel(args, row, bases, args, args[row + 1], first,
                                least(first + args[row + 3], args[row + 2]))
    return region


# --- what Python calls: see ``entry`` ---------------------------------------------------------------------------------


def _differs(form, args, positional, given, names):
    """How much about these arguments is not of the form; 0: nothing."""
    wrong = (positional != form[POSITIONAL]) + (given != form[INPUTS])
    if wrong == 0:
        at = FIRST_INPUT
        for i in range(given):
            array, rank = words_at(args, i), form[at + INPUT_RANK]
            # The same name may be two objects.
            if i >= positional and names[TUPLE_ITEMS + i - positional] != form[at + INPUT_NAME]:
                wrong += order_of_texts(words_at(names, TUPLE_ITEMS + i - positional),
                                        words_at(form, at + INPUT_NAME)) != 0
            if array[OBJECT_TYPE] != form[ARRAY_TYPE] or array[ARRAY_DTYPE] != form[at + INPUT_TYPE] \
                    or array[ARRAY_RANK] & HALF != rank or array[ARRAY_FLAGS] & ORDERED != ORDERED:
                wrong += 1
            else:
                shape, count = words_at(array, ARRAY_SHAPE), 1
                for axis in range(rank):
                    wrong += shape[axis] != form[at + INPUT_SHAPE + axis]
                    count *= form[at + INPUT_SHAPE + axis]
                if form[at + INPUT_LIMIT] != 0 and wrong == 0:
                    wrong += _is_beyond(array, count, form[at + INPUT_BYTES], form[at + INPUT_LIMIT])
            at += INPUT_SHAPE + rank
    return wrong


def _is_beyond(array, count, size, limit):
    """Whether an integer of the array, of so many bytes each, is below 0 or not below the limit."""
    beyond = 0
    if size == 4:
        numbers = ints_at(array, ARRAY_DATA)
        for i in range(count):
            beyond |= (numbers[i] < 0) | (numbers[i] >= limit)
    else:
        words = words_at(array, ARRAY_DATA)
        for i in range(count):
            beyond |= (words[i] < 0) | (words[i] >= limit)
    return beyond


def _wake(form):
    """Wake the workers of the form's pool if some sleep; 1 where that raises, else 0."""
    raised = 0
    # None are left of a pool that has stopped, nor in a forked child, where its lock may be held forever.
    if form[CONTROL] != 0 and words_at(form, CONTROL)[STOP] == 0 and words_at(form, CONTROL)[ASLEEP] != 0:
        given = stack_words(1)
        given[0] = call_object(words_at(form, WAKE), given, 0, nothing())
        if given[0] != 0:
            release(words_at(given, 0))
        else:
            raised = 1
    return raised


def _is_free(form):
    """Whether nobody runs the form's program, and its pool, if it has one, has nothing else to do; it is that of the
    threads that there are."""
    free = form[RUNNING] == 0 and form[EPOCH] == words_at(form, NOW)[0]
    if form[CONTROL] != 0:
        free = free and words_at(form, CONTROL)[BUSY] == 0 and words_at(form, CONTROL)[STOP] == 0
    return free


def _answer(form, args, inputs):
    """The result of a call of this form, an object; 0 where memory is short, of which the interpreter knows."""
    outputs, results, bases = form[OUTPUTS], stack_words(MOST_OUTPUTS), bases_at(form, FRAME)
    first_output = FIRST_INPUT
    for _ in range(inputs):
        first_output += INPUT_SHAPE + form[first_output + INPUT_RANK]
    made = 0
    for k in range(outputs):
        if made == k:
            kind = words_at(form, first_output + k * OUTPUT_WORDS + OUTPUT_KIND)
            results[k] = call_object(words_at(form, EMPTY), kind, 2, nothing())
            made += results[k] != 0
    result = 0
    if made == outputs:
        # From here to the last kernel no other Python runs, or what does finds the form busy.
        at = FIRST_INPUT
        for i in range(inputs):
            if form[at + INPUT_PLACE] >= 0:
                set_base(bases, form[at + INPUT_PLACE], words_at(args, i)[ARRAY_DATA])
            at += INPUT_SHAPE + form[at + INPUT_RANK]
        for k in range(outputs):
            set_base(bases, form[first_output + k * OUTPUT_WORDS], words_at(results, k)[ARRAY_DATA])
        if form[RELEASES] == 0:
            _do_all(words_at(form, PROGRAM), bases, form, False)
        else:
            form[RUNNING] = 1
            state, is_done = leave_interpreter(), False
            if form[CONTROL] != 0:
                is_done = _share(words_at(form, CONTROL), form[PROGRAM], form[FRAME]) == DONE
            if not is_done:
                _do_all(words_at(form, PROGRAM), bases, form, False)
            enter_interpreter(state)
            form[RUNNING] = 0
        result = results[0] if form[MAKE] == 0 else call_object(words_at(form, MAKE), results, outputs, nothing())
    if form[MAKE] != 0 or made != outputs:
        for k in range(made):
            release(words_at(results, k))
    return result


def _define_entry():
    def entry(holder, args, positional, names):
        words = words_at(holder, ARRAY_DATA)
        given = positional
        if is_something(names):
            given += names[TUPLE_SIZE]
        found, raised = 0, 0
        for k in range(words[FORM_COUNT]):
            form = words_at(words, FIRST_FORM + k)
            if found + raised == 0 and _differs(form, args, positional, given, names) == 0:
                raised = _wake(form)
                # Other threads may have run meanwhile.
                if raised == 0 and _is_free(form):
                    found = FIRST_FORM + k
        result = 0
        if found != 0:
            result = _answer(words_at(words, found), args, given)
        elif raised == 0:
            result = call_object(words_at(words, LONG_WAY), args, positional, names)
        return result
    return entry


_SIGNATURES = {
    "region": (_define_region, KERNEL),
    "entry": (_define_entry, (ARGS, ARGS, int64, ARGS)),
    "serial": (_define_serial, (ARGS, BASES)),
    "timed": (_define_timed, (ARGS, BASES, ARGS)),
    "parallel": (_define_parallel, (ARGS, int64, int64)),
    "parallel_timed": (_define_parallel_timed, (ARGS, int64, int64, ARGS)),
    "work": (_define_work, (ARGS, int64, int64)),
}


def build(name: str) -> Object:
    """The object of a name in _SIGNATURES."""
    define, sig = _SIGNATURES[name]
    return compile_native(define(), sig, f"runner_{name}", result=int64 if name in ("entry", *ANSWERING) else None)
