"""Drawn pictures with a known truth, for the demo, the guide of the ui, tests and training.

art     shapes and colours, as text
sketch  the pen: where the units of a shape fall on the picture
camera  the canvas, and what lens and sensor make of it
person  a person, of one of the labels
gate    a snapshot of a gate or kiosk: one person or none
scene   a lobby: people at any distance, a poster, and where their faces are
"""
