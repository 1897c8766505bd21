"""Traffic: simulated streets before an event camera, with exact labels of everything that moves.

`scene.simulate_traffic` is the way in. `layout`, `actors`, `light` and `camera` are the records that the rooms share:
`world` says where the actors are, `bodies` what they look like, `surroundings` paints what stands still, `scene` draws
frame by frame and shows them to the sensor of `simulation`, `annotations` says what a person would label.
"""
