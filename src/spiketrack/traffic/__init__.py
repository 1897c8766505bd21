"""Traffic: simulated streets before an event camera, with exact labels of everything that moves.

`scene.simulate_traffic` is the way in. `layout`, `actors`, `light` and `camera` are the records that the rooms share:
`world` says where the actors are (`arrivals`, `lanes`, `driving`, `right_of_way`, `walkers`), `bodies` what they look
like, `casting` who is before the camera, `surroundings` paints what stands still (planned by `ground` and `street`),
`scene` draws frame by frame and shows them to the sensor of `simulation`, `annotating` notes who was where,
`annotations` says what a person would label. Files of `_kernels` hold the loops over pixels, compiled by numba.
"""
