"""The renderer on CUDA, in NVIDIA Warp: imported only where a backend of it is asked for.

Order of a frame: `frame` (buffers, waves of cameras, launches) runs `project` (cull, mark what is visible, project), `bins`
(segments of splats by camera and macro-tile), `sort`, `blend`. Scenes lie on the device as `device_atlas` holds them, `backend`
offers it all to `gaussgym_render.backends`. Every kernel also runs on Warp's CPU device, which is what tests without a GPU do.
"""
