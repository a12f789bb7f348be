# SPDX-License-Identifier: Apache-2.0
"""Other projects' names over our operators: their users' code runs after changing its import."""
