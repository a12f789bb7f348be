// SPDX-License-Identifier: Apache-2.0
//
// Schemas of the splatting operators. Dimensions: B scenes, C cameras each, N Gaussians each;
// I = B * C images; M splats in all images (I * N, or the packed visible ones); P (splat, tile)
// pairs; D channels. ops.py documents every argument.
#include "core/registration.h"

FL_LIBRARY_FRAGMENT(m) {
  m.def(
      "splat_project(Tensor means, Tensor? covars, Tensor? quats, Tensor? scales, "
      "Tensor? opacities, Tensor viewmats, Tensor Ks, int width, int height, float eps2d, "
      "float near_plane, float far_plane, float radius_clip, int camera_model, bool compensate) "
      "-> (Tensor radii, Tensor means2d, Tensor depths, Tensor conics, Tensor compensations)");
  m.def(
      "splat_project_backward(Tensor means, Tensor? covars, Tensor? quats, Tensor? scales, "
      "Tensor viewmats, Tensor Ks, int width, int height, float eps2d, int camera_model, "
      "bool compensate, bool needs_cameras, Tensor radii, Tensor? g_means2d, Tensor? g_depths, "
      "Tensor? g_conics, Tensor? g_compensations) -> (Tensor g_means, Tensor g_covars, "
      "Tensor g_quats, Tensor g_scales, Tensor g_viewmats, Tensor g_Ks)");
  m.def(
      "splat_shade(int degree, Tensor means, Tensor viewmats, Tensor coefficients, "
      "Tensor? radii) -> Tensor");
  m.def(
      "splat_shade_backward(int degree, Tensor means, Tensor viewmats, Tensor coefficients, "
      "Tensor? radii, Tensor colors, Tensor g_colors, bool needs_positions, bool needs_cameras) -> "
      "(Tensor g_means, Tensor g_viewmats, Tensor g_coefficients)");
  m.def(
      "spherical_harmonics(int degree, Tensor dirs, Tensor coefficients, Tensor? masks) -> Tensor");
  m.def(
      "spherical_harmonics_backward(int degree, Tensor dirs, Tensor coefficients, Tensor? masks, "
      "Tensor g_colors, bool needs_dirs) -> (Tensor g_dirs, Tensor g_coefficients)");
  m.def("splat_covariance(Tensor quats, Tensor scales, bool inverse) -> Tensor");
  m.def(
      "splat_covariance_backward(Tensor quats, Tensor scales, bool inverse, Tensor g_matrices) -> "
      "(Tensor g_quats, Tensor g_scales)");
  m.def(
      "splat_bin(Tensor means2d, Tensor radii, Tensor depths, Tensor? conics, Tensor? opacities, "
      "Tensor? image_ids, int n_images, int tile_size, int tile_width, int tile_height) -> "
      "(Tensor tiles_per_splat, Tensor flatten_ids, Tensor offsets, Tensor slots, Tensor starts)");
  m.def(
      "splat_blend(Tensor means2d, Tensor conics, Tensor colors, Tensor opacities, "
      "Tensor? means2d_abs, Tensor? backgrounds, Tensor? masks, int width, int height, "
      "int tile_size, Tensor offsets, Tensor flatten_ids, Tensor? slots, Tensor? starts, "
      "float alpha_cap, bool keep_state) -> "
      "(Tensor render, Tensor alphas, Tensor state)");
  m.def(
      "splat_blend_backward(Tensor means2d, Tensor conics, Tensor colors, Tensor opacities, "
      "Tensor? backgrounds, Tensor? masks, int width, int height, int tile_size, Tensor offsets, "
      "Tensor flatten_ids, Tensor? slots, Tensor? starts, float alpha_cap, "
      "Tensor render, Tensor alphas, Tensor state, "
      "Tensor g_render, Tensor g_alphas, bool absgrad) -> "
      "(Tensor g_means2d, Tensor g_means2d_abs, Tensor g_conics, Tensor g_colors, "
      "Tensor g_opacities)");
  m.def(
      "splat_draw(int degree, Tensor? means, Tensor? viewmats, Tensor colors, Tensor radii, "
      "Tensor means2d, Tensor depths, Tensor conics, Tensor opacities, Tensor? means2d_abs, "
      "Tensor? backgrounds, Tensor? masks, int width, int height, int tile_size, "
      "float alpha_cap, bool keep_state) -> (Tensor render, Tensor alphas, Tensor state, "
      "Tensor shades, Tensor tiles_per_splat, Tensor flatten_ids, Tensor offsets, Tensor slots, "
      "Tensor starts)");
  m.def(
      "splat_draw_backward(int degree, Tensor? means, Tensor? viewmats, Tensor colors, "
      "Tensor radii, Tensor means2d, Tensor conics, Tensor opacities, Tensor? backgrounds, "
      "Tensor? masks, int width, int height, int tile_size, float alpha_cap, Tensor render, "
      "Tensor alphas, Tensor state, Tensor shades, Tensor flatten_ids, Tensor offsets, "
      "Tensor slots, Tensor starts, Tensor g_render, Tensor g_alphas, bool absgrad, "
      "bool needs_positions, bool needs_cameras) -> (Tensor g_means, Tensor g_viewmats, "
      "Tensor g_colors, Tensor g_means2d, Tensor g_means2d_abs, Tensor g_conics, "
      "Tensor g_opacities)");
  m.def(
      "splat_indices_in_range(int range_start, int range_end, Tensor transmittances, "
      "Tensor means2d, Tensor conics, Tensor opacities, int width, int height, int tile_size, "
      "Tensor offsets, Tensor flatten_ids, float alpha_cap) -> "
      "(Tensor splat_ids, Tensor pixel_ids, Tensor image_ids)");
}
