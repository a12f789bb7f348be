# SPDX-License-Identifier: Apache-2.0
"""How a scene meets rays and pixels."""
