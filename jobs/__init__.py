"""What a scheduler runs, each module with its command in its docstring:

    audit_month     a month in one command: scored, reported, verified, and a bundle to keep
    nightly_report  yesterday's local day, scored once and held against the nights before
      nights        what the two share: how an archive is scored regularly, and where its runs lie
    submit          sends either to a Ray cluster; status, logs, stop
      jobserver     the cluster's Jobs API: why it cannot be used, a log followed to its end
      preflight     what a submitted job does first: check the packages of the head

Imports run one way: jobs -> maskbatch. The files that schedule them, and a cluster for them, lie beside.
"""
