"""The page's fixed words: what each check measures and why it matters, what each number means."""

from __future__ import annotations

import re

ROLES = ("id", "near", "mid", "far", "coarse", "outlier", "val_ood", "fail", "warn", "pass")
TIER_ORDER = ("near", "mid", "far", "coarse")
ROLE_TITLES = {
    "id": "ID", "near": "Near", "mid": "Mid", "far": "Far", "coarse": "Coarse", "outlier": "Outliers",
    "val_ood": "Validation OOD", "other": "Other",
}  # fmt: skip

# id: (title, what is measured, why it matters)
CHECKS: dict[str, tuple[str, str, str]] = {
    "class_disjoint": (
        "No class is on two sides",
        "Class names of ID, OOD, validation OOD and outliers are compared after folding case, punctuation and "
        "Unicode forms.",
        "One class spelt two ways on both sides makes a correct detector look wrong.",
    ),
    "label_table": (
        "Labels are whole and used",
        "Labels must run from the declared base without a gap, every ID class must have images in train, val and "
        "test, an image must keep the class it came with, and role, part and tier must be those of the list that it is "
        "published in.",
        "A label base that is off by one shifts every class, and a class without images leaves a dead logit.",
    ),
    "identity_group": (
        "No identity on both sides",
        "Classes of one identity group (a species, a car model) must all be ID or all be held out.",
        "The male of a species in ID and the female in OOD is the same species: it is not out of distribution.",
    ),
    "image_classes": (
        "No image is of two classes",
        "Equal bytes under two class names are counted.",
        "Nothing can tell such images apart: the error is in the source's labels.",
    ),
    "image_disjoint": (
        "No image is in two lists",
        "The hash of every published image is compared across all roles and splits.",
        "A byte-identical image in train and test measures memory, not generalisation.",
    ),
    "capture_group": (
        "No shooting on two sides",
        "Images of one capture group (a burst, a photographer, a page) must all be in train, or val, or test.",
        "Frames of one scene are almost copies: a model can recognise the scene instead of the class.",
    ),
    "near_dup": (
        "No near-duplicate crosses a border",
        "64-bit perceptual hashes, also of the mirrored image, are searched for pairs within the stated bits; "
        "embeddings confirm where they are asked for.",
        "A re-compressed, resized or mirrored copy leaks as surely as the file itself, and plain hashes miss it.",
    ),
    "outlier_taxonomy": (
        "Outliers hold no ID or OOD concept",
        "No concept of the training outliers may be, or lie under, a root of the ID and OOD classes.",
        "A method trained on outliers that contain the test concepts has seen the answer.",
    ),
    "outlier_similarity": (
        "Outliers do not look like the test set",
        "The nearest outlier of each ID and OOD test image is found by features, and similarities above the limit "
        "counted.",
        "Labels of web images are noisy: a concept filter alone lets look-alikes through.",
    ),
    "tax_distance": (
        "Tiers follow the taxonomy",
        "Every held-out class is at its tier's distance from its nearest ID class, near classes have an ID "
        "sibling, and coarse classes have no ancestor in common with ID.",
        "Without a stated distance, near and far are only opinions.",
    ),
    "tier_sanity": (
        "Tiers also grow apart in features",
        "The mean feature distance to the nearest ID class is compared between near, mid and far.",
        "It tells whether the taxonomy's order is also visible. It never selects anything.",
    ),
    "shortcut": (
        "Nothing but the picture gives it away",
        "A logistic probe tries to tell ID from near OOD by width, height, format, file size and mean colour alone.",
        "If file properties separate the sides, a detector can score well without looking at what is shown.",
    ),
    "null_control": (
        "ID against ID is a coin toss",
        "AUROC of ID validation against ID test, for every detector, must be 50 within the stated distance.",
        "If two samples of the same distribution can be told apart, the protocol itself leaks.",
    ),
    "power": (
        "There is enough data to tell",
        "Held-out classes and images are counted, and the width of the bootstrap interval is stated.",
        "With few classes, a difference between methods is often the luck of the draw.",
    ),
    "seed_diversity": (
        "Seeds hold out different classes",
        "The sets of held-out classes of every two seeds are compared.",
        "Two seeds with the same classes are one experiment counted twice.",
    ),
    "pretrain_overlap": (
        "What the backbone has already seen",
        "Held-out classes are looked up in the declared label set of the pre-trained weights.",
        "A class the backbone was trained on is new to the head only.",
    ),
    "tokens_exact": (
        "Every token comes back",
        "The packed folder is read in order and compared, in the tokenizer's own codes, with what the tokenizer gave.",
        "A codec that loses one token in a million changes images, and nobody sees which.",
    ),
    "tokens_random": (
        "A row alone is the row in order",
        "Some hundred rows are read one by one, in a drawn order, and compared with the same rows read together.",
        "Training reads rows at random: an offset that is wrong for some would mix images and labels.",
    ),
    "tokens_views": (
        "Every view of every image is there",
        "Keys and numbers of views are compared with the build's, in its order.",
        "A view that is missing or of another image is a wrong label in training.",
    ),
    "tokens_size": (
        "Tokens are as small as their entropy",
        "Coded bytes a grid, beside the order-0 entropy of all tokens.",
        "Storage is the whole point: ids that are not ranked, or blocks too small, waste per cents of it.",
    ),
    "tokens_picture": (
        "Tokens hold the picture",
        "PSNR and SSIM of what the stored tokens decode to, beside the tokens of another image.",
        "A tokenizer that was trained on other pictures, or not at all, keeps few of these.",
    ),
    "tokens_adapt": (
        "TokenAdapt leaves tokens alone",
        "Share of the tokens that f⁻¹ f, without an affine between, gives back as they were.",
        "What changes tokens by doing nothing teaches a classifier noise.",
    ),
    "tokens_codebook": (
        "The codebook did not collapse",
        "Codes in use and their perplexity.",
        "A collapsed codebook pays for codes that it never uses; bits against PSNR say how much that matters.",
    ),
    "equal_bytes": (
        "No arm spent more than allowed",
        "Coded bytes of each arm's training images, beside its budget.",
        "Accuracy at unequal bytes compares nothing.",
    ),
    "tokens_learn": (
        "Tokens can be learned from",
        "Mean top-1 of a classifier on tokens alone, beside the most common class of the test.",
        "Tokens that decode well may still be hard to learn from; this is what they are stored for.",
    ),
    "tokens_mtm": (
        "Masked tokens are predicted from their neighbours",
        "Cross-entropy of masked tokens after pre-training, beside the entropy of how often each code comes.",
        "A model at the unigram entropy has learned nothing of pictures.",
    ),
}  # fmt: skip

REASONS = {
    "missing_file": "listed but not there", "unlisted": "there but not listed",
    "duplicate_key": "its name is already taken", "unreadable_row": "a row of the table cannot be read",
    "empty_row": "a row of the table is empty", "bad_label": "its label is not in the class table",
    "bad_field": "a field is not what it should be", "bad_json": "its JSON cannot be read",
    "bad_name": "its name cannot be used", "bad_split": "its official split has an unknown name",
    "no_class": "no class is given", "no_key": "no key is given", "no_path": "no path is given",
    "no_image": "its row holds no image", "path_outside": "its path leads out of the source",
    "not_a_file": "a link, a folder or a device", "not_an_image_file": "another kind of file",
    "hidden": "a hidden file", "unreadable_file": "the file cannot be read",
    "unreadable_folder": "a folder cannot be read",
    "empty": "the file has 0 bytes", "not_an_image": "its bytes are no image", "truncated": "the file ends early",
    "undecodable": "its pixels cannot be decoded", "too_many_pixels": "larger than may be decoded",
    "too_large": "a larger file than may be read", "too_small": "smaller than the recipe asks for",
    "changed": "the file changed while the build ran", "no_pool": "in none of the catalog's pools",
    "small_class": "its class has fewer images than its pool asks for", "mixed_skin_tones": "shows two skin tones",
    "too_few_images": "too few images are left of its class", "not_drawn": "its class was not drawn",
    "not_sampled": "beyond the size that was asked for", "duplicate": "a near-duplicate of another image",
    "leaky_name": "an outlier that shares a name with a tested class",
    "leaky_concept": "an outlier of a tested concept",
    "similar_to_test": "an outlier that looks like a test image",
    "heldout_train": "an official training image of a held-out class",
    "heldout_test": "an official test image of a class held out for validation",
    "skin_tone": "the same drawing in another skin tone", "filtered": "does not match the filter",
    "outside_reference": "a drawing that refers to something outside of it",
    "too_complex": "a drawing deeper or larger than may be rendered",
    "vector_not_finite": "its embedding holds a number that is not finite",
}  # fmt: skip

# field of MetricRow: (column, meaning, positive class)
METRICS: dict[str, tuple[str, str, str]] = {
    "auroc": ("AUROC", "Chance that an ID image scores above an OOD image, ties a half. 50 is a coin toss.",
              "none: the same either way"),
    "auroc_macro": ("AUROC by class", "Mean of the AUROC of each OOD class: large classes count no more than small.",
                    "none: the same either way"),
    "aupr_in": ("AUPR-in", "Area under precision and recall of finding ID. Depends on the ID : OOD ratio.", "ID"),
    "aupr_out": ("AUPR-out", "Area under precision and recall of finding OOD. Depends on the ratio too.", "OOD"),
    "tnr_at_95tpr_id": ("TNR at 95 % TPR, ID+", "Share of OOD rejected when 95 % of ID is kept.", "ID"),
    "fpr_at_95tpr_id": ("FPR at 95 % TPR, ID+", "Share of OOD accepted when 95 % of ID is kept: 1 − the TNR.", "ID"),
    "fpr_at_95tpr_ood": ("FPR at 95 % TPR, OOD+",
                         "Share of ID flagged when 95 % of OOD is caught, as OpenOOD and pytorch-ood count.", "OOD"),
    "oscr": ("OSCR", "Area under correct classification of ID against false acceptance of OOD.", "ID"),
}  # fmt: skip
NAMES = {
    "ce": "CE", "ce_control": "CE control", "oe": "OE", "mixoe_mixup": "MixOE mixup", "mixoe_cutmix": "MixOE cutmix",
    "msp": "MSP", "mls": "Max logit", "energy": "Energy", "gen": "GEN", "odin": "ODIN", "knn": "k-NN",
    "mahalanobis": "Mahalanobis", "rmd": "RMD", "vim": "ViM", "linear": "Linear", "val_accuracy": "accuracy on ID val",
    "loss": "training loss", "accuracy": "ID accuracy", "auroc": "AUROC",
}  # fmt: skip
LOWER_IS_BETTER = ("fpr_at_95tpr_id", "fpr_at_95tpr_ood")

# What a string from outside may not carry into the page: C0 and C1 controls (a terminal's escapes among
# them) but tab and newline, lone surrogates (they cannot be written as UTF-8), and what XML forbids.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def clean(text: str) -> str:
    """`text` with U+FFFD for what cannot be shown."""
    return _UNPRINTABLE.sub("\ufffd", text)


def role_of(name: str) -> str:
    """The colour of a tier, role or published split."""
    folded = name.lower().removesuffix("_ood") if name != "val_ood" else name
    folded = {"train": "id", "val": "id", "test": "id", "outliers": "outlier"}.get(folded, folded)
    return folded if folded in ROLES else "other"


def tier_title(name: str) -> str:
    """The tier as people read it; a name we do not know is left as it is."""
    role = role_of(name)
    return name if role == "other" else ROLE_TITLES.get(role, name)


def spell(name: str) -> str:
    """A method, detector or measure as the papers write it; a name we do not know is left as it is."""
    return NAMES.get(name, name)


def plural(count: int, word: str) -> str:
    """`1 row`, `1,200 rows`."""
    return f"{count:,} {word}" + ("" if count == 1 else "s")


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def sentence(text: str) -> str:
    """`text` with a capital at its start and a stop at its end."""
    text = capital(text.strip())
    return text + ("" if not text or text[-1] in ".!?…" else ".")


def check_words(check: str) -> tuple[str, str, str]:
    """(title, what is measured, why it matters) of a check; its id in words where the page knows no more."""
    return CHECKS.get(check, (clean(check).replace("_", " ").capitalize(), "", ""))
