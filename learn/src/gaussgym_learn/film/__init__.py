"""Films of robots in places: a chase camera among the splats, the robot drawn into them, mp4 files."""
