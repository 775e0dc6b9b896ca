"""Size and shape of the sample model's three networks: Stable Diffusion 1.x, made small. Importing this loads nothing."""

from __future__ import annotations

TOKENS = 77  # length of every tokenised prompt

# LDM's autoencoder normalises in 32 groups. With 32 channels each would be normalised alone, which wipes out the very
# thing that flat areas are made of, their level; 64 is the smallest count that can tell a colour.
AUTOENCODER = {
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "sample_size": 256,
    "layers_per_block": 1,
    "norm_num_groups": 32,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (64, 64, 64, 64),
    "act_fn": "silu",
}
UNET = {
    "sample_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "layers_per_block": 1,
    "norm_num_groups": 32,
    "cross_attention_dim": 96,
    # For SD1.x models diffusers reads this entry as the number of heads.
    "attention_head_dim": 4,
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    "block_out_channels": (64, 128, 64, 64),
    "act_fn": "silu",
}
# Stable Diffusion 1.5's own structure at a tenth of its width: two ResBlocks a level, 16 transformer blocks, 8 heads; 8.7 M parameters.
UNET_LIKE_SD15 = {**UNET, "sample_size": 64, "layers_per_block": 2, "attention_head_dim": 8, "block_out_channels": (32, 64, 128, 128)}
# By the name that a training is given; "small" is what ships.
UNETS = {"small": UNET, "sd15": UNET_LIKE_SD15}
TEXT_ENCODER = {
    "hidden_size": 96,
    "intermediate_size": 384,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "projection_dim": 96,
    "max_position_embeddings": TOKENS,
    "hidden_act": "quick_gelu",
}
SCHEDULER = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "steps_offset": 1,
    "clip_sample": False,
    "set_alpha_to_one": False,
}
