"""The vocabulary that every part of fracgpu shares.

Names, units, the device model, configuration, amounts, reasons and errors live here so that two parts can never
disagree about them. This package imports nothing else of ours.
"""
