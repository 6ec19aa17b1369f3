"""Single images, in this process, without Ray.

images     predict_images: a path, a URL or a member of a container to what its rows of scores would say
result     what that is, of an image and of its faces
annotate   one PNG of pictures, their labels and bars
boxes      there a whole scene, with a box around each face
ink        colours and letters
"""
