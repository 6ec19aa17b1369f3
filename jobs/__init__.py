"""What a scheduler or a cluster runs:

    nightly_report  `maskbatch nightly` as a module
    audit_month     `maskbatch audit` as a module
    submit          sends either, or a score, to a Ray cluster; status, logs, stop
      jobserver     the cluster's Jobs API: why it cannot be used, a log followed to its end
      preflight     what a submitted job does first: check the packages of the head

Imports run one way: jobs -> maskbatch. Schedule and cluster files lie beside them.
"""
