"""Inside the program: what PyTorch says of steps, phases and memory, into a file.

The same runner serves a rehearsal on the virtual card and a profile on a real one.

    bootstrap/sitecustomize.py  starts it in every Python process of the program
    hooks.py                    installs all the rest once PyTorch is imported
    course.py                   steps to watch, steps to time, the end
    watch.py                    all that is attached to PyTorch, and taken off again
    modules.py, signals.py      what PyTorch tells: calls, losses, backward, optimizers
    phases.py                   steps and phases made of that
    counters.py                 peaks of our own beside the program's
    history.py, attribution.py  every block at the peak, and what holds it
    clock.py, flops.py          times and operations of steps that nobody watches
    stop.py                     the end, after as many steps as were asked for
    capture.py                  what was seen, one JSON file a process

It imports the standard library and PyTorch alone: the program's interpreter need have
nothing else.
"""
