"""What a scheduler or a cluster runs; the files of schedules and clusters lie beside these modules.

nightly_report  `maskbatch nightly` as a module
audit_month     `maskbatch audit` as a module
submit          sends either, or a score, to a Ray cluster; status, logs, stop
  jobserver     the cluster's Jobs API: connect, follow a job
  preflight     what a submitted job does first: check the packages of the head
"""
