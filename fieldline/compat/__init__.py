# SPDX-License-Identifier: Apache-2.0
"""Other projects' names over our operators: code written for them runs after changing its import."""
