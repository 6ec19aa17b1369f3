"""Figures of committed runs: a report over one or several together, and comparisons of runs.

make          a whole report written to its folder: Parquet, report.json, alerts.json, report.html
figures       its tables and the values of report.json, from the survey
provenance    what the runs themselves tell: checkpoint, clocks, time covered
survey        the one pass over rows, by local day: cells, stretches, images to review
conditions    frozen, duplicate, dark, over-exposed, covered, blurred
faces static  of whole scenes: sizes, who complies in each picture, and faces that stand still
cells         the counts from which every figure follows, and the bins of histograms
tables        rates by site, camera, day, hour: intervals (how sure) and prevalence (corrected)
clocks        cameras whose dates are wrong, which leave days and hours
coverage      snapshots against the expected ones, and gaps
drift         each camera's last nights against those before
alerts        rates below their bound, falls, wrong clocks and drift
compare pairs two runs, or several nights and one; which images are in both
page plots    report.html and its drawings
choice        which rows of a long table are shown
words         figures in sentences, for a terminal and a log
"""
