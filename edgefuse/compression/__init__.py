"""Compression for fine-tuning: methods, the recipe of stages, calibration, distillation, fidelity.

May import `artifact` and what is below it; never `tuning`. Inside, imports go down this list:

    compress                      plan and compress, for the command and the API
    catalog                       the list of methods
    fusions, chains/method        methods with their options; what computes is imported when called
    fusion_plan, chains/mpo_plan  what a method will do to a model, and doing it
    fusion, streaming             MLPs fused in memory, or from files
    allocation, effect            widths by sensitivity
    distillation                  all narrow MLPs taught together
    recipe                        the stages of one MLP
    teaching, refit, multiplicity, fidelity, calibration
    methods/                      how one MLP is made smaller
    kmeans, reduction, plan, method, progress, kept_inputs, distillation_settings
"""
