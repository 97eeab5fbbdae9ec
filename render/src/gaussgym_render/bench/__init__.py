"""How fast the renderer is, where its time goes, and how it compares: behind `gaussgym-render bench`.

- `scenes`: what is rendered: exact numbers of splats, cameras along paths
- `matrix`: frames per second over sizes, batches, scenes and splats; how the cost of a frame scales
- `steps`: the CPU backend's time by step of its pipeline
- `rivals`: other renderers on the same scenes and cameras
- `effects`: what the camera model and objects cost
- `training`: a training step of the differentiable rasterizer
- `comparison`: a scene with levels of detail against its full self
- `machine`, `report`: where numbers were measured; tables, JSON and a plot of them
"""
