"""Single images, in this process, without Ray.

images     predict_images: a path, a URL or a member of a container to what a scores row would say
annotate   one PNG of pictures, their labels and bars
"""
