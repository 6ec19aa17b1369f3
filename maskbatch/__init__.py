"""maskbatch: score archives of camera snapshots for mask compliance, every image accounted for.

The path of a snapshot, one line a module:

    cli         commands, exit codes, what is printed; flags that they share
    config      every setting, its default and bounds
    runner      a whole run: plan, score, commit, report
    archive     what an ARCHIVE argument names, of any kind, each image once
      listing     every file below a folder of any store, in order
      tars zips   members as byte ranges (members: what both share)
      rowfiles    images that are rows of a Parquet file
      manifest    CSV, JSONL, Parquet and S3 Inventories that list images
      unique      what several of them list, once
      places      where a uri points, and whether that is allowed
    layout      what a path says: site, camera, time
    clock       local times and zones
    plan        one numbered row an image, Parquet
    planning    a run's settings and plan: found in its directory, or made now
      versions    OUT, then OUT.v2, OUT.v3 ...
      reuse       which images earlier runs hold unchanged
      carry       their rows, copied at the commit
    estimate    hours and cost of a run before it is made
      calibration a random sample, scored here for some seconds
      nodes       what a cluster file says there may be
    cluster     the Ray cluster: started or joined, its nodes, what it lacks
    pipeline    the Ray Data job on it; what names pools, CPUs and GPUs
      workers     what runs there: decode tasks and scoring actors
      metrics     what they count, for Ray's metrics
    read        plan rows to bytes, neighbours by one request
      fetch       one request: tries, patience, how many at once
      stores      local files, fsspec, credentials; s3, s3_listing and web the others
    decode      bytes to fixed-size RGB, or a status with its reason
    quality     brightness, contrast, sharpness, dhash
    architectures  every network that a checkpoint can name
    classifier  uint8 images to probabilities, on a CPU or GPU
    rows        one shard's hops as plain functions, ending in scores rows
    staging     one object a shard: what a resumed run starts from
    commit      the proof that nothing is lost, scores/, _SUCCESS
    committed   finished runs, opened to be read
    survey      the one pass over their rows, a local day at a time
      conditions  frozen, duplicate, dark, over-exposed, covered, blurred
      buckets     hashes on disk, compared a bucket at a time
      cells       rows to the counts that every figure is made of
    tables      cells to rates by group
      intervals   how sure a rate is
      prevalence  the rate without the classifier's errors
    coverage    snapshots against those expected, and gaps
    drift       each camera's nights against those before
    alerts      rates below their bound, falls, and drift
    report      all of it as Parquet, report.json and
      page plots  report.html
    review      what people are asked to judge, and with what chance
      pictures    images of a run read again, to be looked at
      corrections what people said of them
      judged      what that says of the whole run
    terminal    the report in a terminal
    compare     two runs, or several nights and one, against each other
    verify      a finished run checked: files, counts, every id once
      consistency rows against the plan and against themselves
      rescore     a sample read from the archive and scored again
      differences what was found
    predict     single images, as the job would score them, without Ray
      annotate    one PNG of them, their labels and bars
    ui/         the page in the browser (extra [ui])

Beside it: entries (one image as a listing finds it), checkpoint (the file format of a model),
schema (columns), rundir and lease (the run directory, on any store), status (where its run stands),
progress, errors, histograms, drawing and demo.
"""
