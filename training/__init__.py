"""Training: from labelled pictures to a checkpoint that `maskbatch score` runs, with figures to trust.

The path of a picture, one line per module; (command) marks those to run as `python -m training.NAME`:

    prepare      (command) the default's data: faces, cuts of photographs, drawings
    crops        faces of whole scenes, found and cut as scoring does
    recipe       all settings of a training except the data, in a TOML file
    data         labelled pictures from folders and manifests, and their pixels, decoded as scoring does
    corrections  what people corrected in runs
    reader       the bytes of files, and of images of a run
    splits       fit, slice, val and exam, without leaks
    scenes       boxed photographs: which faces are found, and how they are labelled
    network      weights, device, head and backbone
    augment      random changes like those a gate camera makes
    inputs       batches of pictures, or of their features
    fit          the training loop: best epoch, early stopping, resume
    metrics      figures with intervals, calibration, comparison
    plots        plots of an evaluation
    evaluate     (command) every figure of a checkpoint, on pictures it never saw
    evaluate_scenes  (command) a detector and a classifier together, on boxed photographs
    card         the model card
    huggingface  import of an image classifier of transformers
    export       (command) the checkpoint, from a training or from Hugging Face
    teach        the old checkpoint against the new, on val and on exam
    finetune     (command) all of it
    convert_detector  (command) the packaged face detectors, from their published weights
"""
