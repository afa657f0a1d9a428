"""How the ``predict.py`` of an export reads a picture. What fedtl would convert or refuse, the script refuses."""

READ = """\
def picture(path):
    from PIL import Image, ImageOps, UnidentifiedImageError
    try:
        with Image.open(path) as file:
            if reason := odd(file):
                sys.exit(f"predict.py: {path} {reason}; save it as one picture of sRGB or grey, without transparency")
            image = ImageOps.exif_transpose(file)
    except UnidentifiedImageError:
        sys.exit(f"{path} is not a .csv, an .npy or a picture that Pillow reads; pass DICOM and NIfTI files as an .npy of {SHAPE[1:]}")
    except (OSError, ValueError, SyntaxError, TypeError) as error:
        sys.exit(f"predict.py: {path} cannot be read as an image: {error}")
    if image.mode.startswith(("I", "F")):  # 16 bits
        if [*image.size[::-1]] != SHAPE[1:]:
            sys.exit(f"{path} is {image.size}; pass it as an .npy of {SHAPE[1:]}")
        return np.asarray(image).astype(np.uint16 if image.mode.startswith("I;16") else np.float32)[None]
    image = image.convert("RGB" if SHAPE[0] == 3 else "L")
    return np.asarray(image if INPUTS["size"] == "native" else image.resize(SHAPE[:0:-1], Image.Resampling.BILINEAR))[None]

def odd(image):  # why its pixels are not what they seem to be
    from io import BytesIO
    from PIL import ImageCms
    if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
        return f"holds {image.n_frames} images"
    deep = image.mode.startswith(("I", "F"))
    if not deep and image.mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"):
        return f"has colours of the kind {image.mode}"
    if not deep and image.format in ("PNG", "TIFF") and any(";16" in str(tile[3]) for tile in image.tile):
        return "has 16 bits in each channel"
    if image.has_transparency_data and image.convert("RGBA").getchannel("A").getextrema() != (255, 255):
        return "is transparent in places"
    gamma, profile = image.info.get("gamma"), image.info.get("icc_profile")
    if gamma and not profile and "srgb" not in image.info and abs(2.2 * gamma - 1) >= 0.05:
        return f"has a gamma of {gamma:.3g}"
    if profile and not INPUTS["pixel_range"]:
        try:
            plain, source = image.convert("L" if deep else "RGB").convert("RGB"), ImageCms.ImageCmsProfile(BytesIO(profile))
            shown = ImageCms.profileToProfile(plain, source, ImageCms.createProfile("sRGB"))
            moved = np.abs(np.asarray(shown).astype(int) - np.asarray(plain)).max()
        except (ImageCms.PyCMSError, OSError):
            moved = 255
        if deep or moved > 2:
            return "has a colour profile"
    return ""
"""
