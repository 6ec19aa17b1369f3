"""People judge images of a run, or its faces, and their judgements give its error rate and compliance.

queue         which images to judge: the least certain, and a random sample of the others
pictures      those images, read from the archive again
blur          faces of others in them, beyond recognition
corrections   judgements, one object each, in corrections/
rate          what they say of the whole run: the section `judged` of report.json
sample        the statistics behind it: shares of a judged sample, with intervals
"""
