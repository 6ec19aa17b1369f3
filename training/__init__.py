"""Training: from labelled pictures to a checkpoint that `maskbatch score` runs, with figures that hold.

The path of a picture, one line a module:

    prepare      the default's data: faces, cuts of photographs, drawings
    recipe       everything that decides a training but the data, a TOML file
    data         labelled pictures from folders and manifests; their pixels by scoring's decode
    corrected    what people corrected in runs
    reading      the bytes of files, and of images of a run
    splits       fit, slice and val that cannot leak; exam, of corrections
    network      weights, device, head and backbone
    augment      what a gate camera does to a face
    inputs       batches of pictures, or features of them
    fit          the loop: best epoch, early stopping, resume
    metrics      figures with intervals, calibration, comparison
    plots        pictures of an evaluation
    evaluate     every figure of a checkpoint on pictures it never saw
    card         the model card
    export       the checkpoint, from a training or from Hugging Face
    huggingface  an image classifier of transformers in our terms
    teach        old against new, on val and on exam
    finetune     the command that does all of it

`console` is the edge of each command.
"""
