"""The compressed model directory: saved and loaded.

What plain transformers can compute with is stored as it computes it; all else as it trains.

    config.json, tokenizer files    as transformers writes them
    edgefuse.json                   the record: what was done to the model
    model.safetensors               every MLP fused: plain tensors, P folded into W2
    model.edgefuse.safetensors      chains or thin matrices: the tensors as they train, P standalone
    spectra.safetensors             chains: λ of every bond before it was cut, NAME.0 … NAME.3

Plain transformers loads model.safetensors where the configuration says all widths. Of widths that
it cannot say (uneven ones, or those of Bloom, whose MLPs are always four times as wide as its
hidden states) the configuration keeps the model's own, and plain transformers refuses the tensors'
sizes. model.edgefuse.safetensors has transformers' own form for a variant, so that plain
transformers says that model.safetensors is not there, where it would otherwise make up matrices.

May import `mlps`, `layers` and `hub`.
"""
