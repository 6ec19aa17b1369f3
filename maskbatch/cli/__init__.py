"""The command line.

commands   a function a command: plan, estimate, score, report, status, compare, verify, predict, ui,
           nightly, audit, demo
settings   the flags of a command from the settings that it takes, over a --config file
flags      every flag, each with its one sentence of help
terminal   tables for a terminal
program    the edge of every program: one sentence and an exit code, never a traceback
"""
