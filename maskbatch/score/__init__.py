"""From plan rows to scores rows, without Ray.

read      plan rows to encoded bytes, neighbours by one request
scene     whole scenes: frames, faces, crops
device    sorted images to pictures on a device
tensors   what is done to pictures there
networks  the classifier, and the detector before it, on one device
rows      scores rows of images, and of scenes and their faces
shard     the images of one shard
guard     says where the pictures of a run do not fit its view
glance    what a sample of them shows
"""
