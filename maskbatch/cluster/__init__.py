"""Scoring on a Ray cluster: nothing else imports Ray.

- `connection`: a cluster, started or joined. `nodes`: its nodes by shape. `launcher`: Ray's launcher files.
- `pipeline`: the Ray Data job, its pools of actors, CPUs and GPUs.
- `workers`: what runs there: decode tasks and scoring actors. `metrics`: what they count.
- `ray_internals`: what we use of Ray that is not public.
"""
