"""The command line.

commands   a function a command, from plan to demo
settings   the flags of a command from the settings that it takes, over a --config file
flags      flags of settings, of several commands, and long ones, each with its one sentence of help
repeats    two of one flag are refused
terminal   tables for a terminal
program    the edge of every program: one sentence and an exit code, never a traceback
"""
