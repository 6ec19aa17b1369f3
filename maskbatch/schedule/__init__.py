"""What is scored regularly: nights, and months made of them.

nights    where the runs of an archive's nights lie, and how one is scored
nightly   a night's report, held against the nights before it
audit     a month: scored or put together from its nights, verified, bundled
"""
