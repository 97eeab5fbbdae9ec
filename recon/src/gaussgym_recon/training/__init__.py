"""Parts of the splat trainer by what each owns: parameters, optimizer, growth, exposure, poses, surfaces, checkpoint, engines."""
