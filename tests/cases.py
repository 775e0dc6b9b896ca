"""What the behaviour tests run through: methods alone and in stages."""

from lib_accel import AgentAttention, TokenDownsampling, TokenMerging

METHODS = {
    "agents": (AgentAttention(window=(0, 1)),),
    "merging": (TokenMerging(),),
    "downsampling": (TokenDownsampling(deeper_factor=2),),
    "stages": (AgentAttention(window=(0, 0.4)), TokenMerging(window=(0.4, 1))),
    "everywhere": (AgentAttention(sx=2, sy=4, max_downsample=4, merge_crossattn=True, merge_mlp=True, window=(0, 1)),),
}
