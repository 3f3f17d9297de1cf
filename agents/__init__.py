"""PipelineSpec in, recommendations out: three thin agents and the local rules around them."""
