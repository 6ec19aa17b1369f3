"""`make torture`: what maskbatch promises, tried until it breaks; about half an hour on two cores.

kills       a driver killed at random moments of every phase: the same table, every time
mutations   sound pictures damaged at random: a row, never an exception
bombs       small files that claim to be huge: bounded memory and time
poison      images that crash or hold up their worker inside a run
names       hostile names of files and folders: each image once, no line of output forged
"""
