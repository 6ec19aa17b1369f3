"""maskbatch: score archives of camera snapshots for mask compliance, every image accounted for.

The path of a snapshot, one line a module:

    cli         flags, exit codes, what is printed
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
    pipeline    the Ray Data job; the only module that names Ray, CPUs and GPUs
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
    cells       committed rows to the counts that every figure is made of
    intervals   how sure a rate is
    report      tables and report.json from cells
    terminal    the report in a terminal

Beside the path: entries (one image as a listing finds it), checkpoint (the file format of a model),
schema (columns), rundir and lease (the run directory, on any store), progress, errors, histograms,
drawing and demo.
"""
