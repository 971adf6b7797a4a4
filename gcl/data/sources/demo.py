"""A synthetic product catalogue: photos, titles, shoppers' queries and graded relevance, all drawn by this code.

gcl prepare source=demo output_dir=DIR
"""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from gcl.data.record import Refusal, SourceRow
from gcl.data.sources import demo_goods as goods
from gcl.data.sources import demo_wear as wear
from gcl.data.sources.demo_drawing import COLOURS, PATTERNS, Look, Shape, draw_photo
from gcl.errors import UserError

MINIMUM_IMAGE_SIZE = 32
BRANDS = ["Norvane", "Kestrin", "Olmeda", "Tavrik", "Brimlow", "Quillby"]  # in the order of the badges
BEST_SCORE = 5
WRONG_SHARE = 0.2  # how often a shopper asks for another attribute than the product has
CONTRAST = 150  # the least distance, in 8-bit RGB, between the two colours of a pattern


@dataclass(frozen=True)
class Kind:
    """A type of product."""

    name: str
    query_name: str  # what shoppers call it
    category: str
    draw: Shape
    variants: tuple[str, str]  # what the shape's two builds are called
    detail: str  # a phrase that some titles end with; the photo does not show it


KINDS = [
    Kind("T-Shirt", "tee", "Clothing > T-Shirts", wear.t_shirt, ("Short Sleeve", "Long Sleeve"), "100% Cotton"),
    Kind("Dress", "dress", "Clothing > Dresses", wear.dress, ("Knee Length", "Maxi"), "with Pockets"),
    Kind("Pants", "pants", "Clothing > Pants", wear.pants, ("Long", "Short"), "Elastic Waist"),
    Kind("Socks", "socks", "Clothing > Socks", wear.sock, ("Crew", "Ankle"), "6 Pairs"),
    Kind("Mittens", "gloves", "Clothing > Gloves", wear.mitten, ("Short Cuff", "Long Cuff"), "Fleece Lined"),
    Kind("Beanie", "winter hat", "Clothing > Hats", wear.beanie, ("Cuffed", "Pom Pom"), "Unisex"),
    Kind("Sun Hat", "beach hat", "Clothing > Hats", wear.sun_hat, ("Wide Brim", "Narrow Brim"), "UPF 50+"),
    Kind("Boots", "boots", "Shoes > Boots", wear.boot, ("Ankle", "Knee High"), "Waterproof"),
    Kind("Sneakers", "running shoes", "Shoes > Sneakers", wear.sneaker, ("Low Top", "High Top"), "Rubber Sole"),
    Kind("Backpack", "school bag", "Bags > Backpacks", wear.backpack, ("Single Pocket", "Double Pocket"), "25 L"),
    Kind("Tote Bag", "shopping bag", "Bags > Totes", wear.tote, ("Short Handle", "Long Handle"), "Canvas"),
    Kind("Suitcase", "luggage", "Bags > Luggage", wear.suitcase, ("Upright", "Wide"), "Hard Shell"),
    Kind("Mug", "coffee cup", "Kitchen > Mugs", goods.mug, ("Round Handle", "Square Handle"), "12 oz"),
    Kind("Teapot", "tea pot", "Kitchen > Teapots", goods.teapot, ("Side Handle", "Top Handle"), "32 oz"),
    Kind("Bowl", "bowl", "Kitchen > Bowls", goods.bowl, ("Shallow", "Deep"), "Dishwasher Safe"),
    Kind("Water Bottle", "flask", "Kitchen > Bottles", goods.bottle, ("Screw Cap", "Straw Lid"), "24 oz"),
    Kind("Vase", "flower vase", "Home > Vases", goods.vase, ("Bulb", "Flared"), "10 Inch"),
    Kind("Candle", "candle", "Home > Candles", goods.candle, ("Pillar", "Wide"), "Unscented"),
    Kind("Table Lamp", "bedside light", "Home > Lamps", goods.lamp, ("Cone Shade", "Dome Shade"), "LED Bulb"),
    Kind("Throw Pillow", "cushion", "Home > Pillows", goods.pillow, ("Square", "Lumbar"), "Machine Washable"),
    Kind("Area Rug", "carpet", "Home > Rugs", goods.rug, ("Rectangular", "Oval"), "Non-Slip"),
    Kind("Wall Clock", "clock", "Home > Clocks", goods.wall_clock, ("Round", "Square"), "Battery Operated"),
    Kind("Chair", "dining chair", "Furniture > Chairs", goods.chair, ("Armless", "Wooden Arms"), "Easy Assembly"),
    Kind("Sofa", "couch", "Furniture > Sofas", goods.sofa, ("2 Seat", "3 Seat"), "Stain Resistant"),
    Kind("Coffee Table", "low table", "Furniture > Tables", goods.table, ("Round", "Rectangular"), "Wood Legs"),
    Kind("Watch", "wristwatch", "Accessories > Watches", wear.watch, ("Round Dial", "Square Dial"), "Quartz"),
    Kind("Umbrella", "umbrella", "Travel > Umbrellas", wear.umbrella, ("Hook Handle", "Stick Handle"), "Windproof"),
    Kind("Phone Case", "phone cover", "Phones > Cases", wear.phone_case, ("Tall Camera", "Square Camera"), "Slim Fit"),
    Kind("Headphones", "headset", "Audio > Headphones", wear.headphones, ("Black Band", "Matching Band"), "Wireless"),
    Kind("Notebook", "journal", "Office > Notebooks", goods.book, ("Lay Flat", "Ribbon Marker"), "200 Pages"),
    Kind("Guitar", "guitar", "Music > Guitars", goods.guitar, ("Acoustic", "Electric"), "6 String"),
    Kind("Drum", "drum", "Music > Drums", goods.drum, ("Wide", "Tall"), "Goatskin Head"),
    Kind("Ball", "ball", "Toys > Balls", goods.ball, ("Round", "Oval"), "Pump Included"),
    Kind("Kite", "kite", "Toys > Kites", goods.kite, ("Diamond", "Delta"), "Easy to Fly"),
    Kind("Toy Car", "play car", "Toys > Cars", goods.toy_car, ("Coupe", "Van"), "Ages 3+"),
    Kind("Gift Box", "present box", "Party > Gift Boxes", goods.gift_box, ("Tall", "Flat"), "Reusable"),
    Kind("Tent", "camping tent", "Outdoors > Tents", goods.tent, ("Ridge", "Dome"), "4 Person"),
    Kind("Skateboard", "skateboard", "Outdoors > Skateboards", goods.skateboard, ("Classic", "Pintail"), "Maple Deck"),
]


@dataclass(frozen=True)
class Product:
    """The attributes of one product; the photo shows them all, the brand as a badge."""

    kind: Kind
    variant: int
    colour: str
    pattern: str
    second_colour: str  # the first again where the pattern is solid
    brand: int

    @property
    def look(self) -> Look:
        return Look(self.kind.draw, self.variant, self.colour, self.pattern, self.second_colour, self.brand)

    @property
    def colours(self) -> str:
        pair = self.colour if self.pattern == "solid" else f"{self.colour} and {self.second_colour}"
        return pair.title().replace(" And ", " and ")


class DemoSource:
    """Products drawn one by one: product i of a seed is the same however many there are."""

    folder = None  # it brings its images

    def __init__(
        self,
        products: int = 6000,  # rows; each is one product with its photo, title, query and score
        seed: int = 0,  # another seed draws another catalogue
        image_size: int = 160,  # width and height of the photos, in pixels
    ) -> None:
        if products < 1:
            raise UserError(f"products {products} is not positive; a catalogue needs at least 1")
        if image_size < MINIMUM_IMAGE_SIZE:
            raise UserError(f"image_size {image_size} shows nothing; take at least {MINIMUM_IMAGE_SIZE} pixels")
        self.products, self.seed, self.image_size = products, seed, image_size

    def __len__(self) -> int:
        return self.products

    def __iter__(self) -> Iterator[SourceRow | Refusal]:
        return (self.record(i) for i in range(self.products))

    def record(self, i: int) -> SourceRow:
        rng = Random(f"{self.seed}/{i}")
        product = draw_product(rng)
        query, score = draw_query(product, rng)
        fields: dict[str, str | float] = {
            "item_id": f"DEMO-{i:06d}",
            "title": draw_title(product, rng),
            "category": product.kind.category,
            "query": query,
            "score": score,
            "type": product.kind.name,
            "variant": product.kind.variants[product.variant],
            "colour": product.colour,
            "pattern": product.pattern,
            "second_colour": product.second_colour,
            "brand": BRANDS[product.brand],
            "synthetic": "true",
        }
        return SourceRow(fields, {"image": (draw_photo(product.look, self.image_size, rng),)}, f"demo:{i}")


def draw_product(rng: Random) -> Product:
    colour, pattern = rng.choice(list(COLOURS)), rng.choice(list(PATTERNS))
    second_colour = colour if pattern == "solid" else rng.choice(contrasting_colours(colour))
    return Product(rng.choice(KINDS), rng.randrange(2), colour, pattern, second_colour, rng.randrange(len(BRANDS)))


def contrasting_colours(colour: str) -> list[str]:
    """The colours that can be told from `colour` in a pattern."""

    def distance(other: str) -> float:
        return sum((a - b) ** 2 for a, b in zip(COLOURS[colour], COLOURS[other], strict=True)) ** 0.5

    return [other for other in COLOURS if distance(other) >= CONTRAST]


def draw_title(product: Product, rng: Random) -> str:
    """The seller's words: every attribute, in one of three orders, now and then with the detail."""
    brand, name, variant = BRANDS[product.brand], product.kind.name, product.kind.variants[product.variant]
    pattern, colours = product.pattern.title(), product.colours
    title = rng.choice(
        (
            f"{brand} {pattern} {name}, {colours}, {variant}",
            f"{brand} {variant} {name} - {pattern} {colours}",
            f"{colours} {pattern} {name} by {brand}, {variant}",
        )
    )
    return f"{title}, {product.kind.detail}" if rng.random() < 0.4 else title


def draw_query(product: Product, rng: Random) -> tuple[str, int]:
    """A shopper's words and their grade: 5 times the share of the attributes asked for that the product has.

    Asks for the type and for one to three of colour, pattern, second colour and variant, now and then for a wrong one.
    """
    true = {"colour": product.colour, "pattern": product.pattern, "variant": product.kind.variants[product.variant]}
    others = {"colour": list(COLOURS), "pattern": list(PATTERNS), "variant": list(product.kind.variants)}
    if product.pattern != "solid":
        true["second colour"], others["second colour"] = product.second_colour, list(COLOURS)
    words = {}
    for attribute in rng.sample(sorted(true), rng.randint(1, 3)):
        wrong = [value for value in others[attribute] if value not in true.values()]
        words[attribute] = rng.choice(wrong) if rng.random() < WRONG_SHARE else true[attribute]
    right = 1 + sum(word == true[attribute] for attribute, word in words.items())
    second = f"with {words['second colour']}" if "second colour" in words else ""
    name = rng.choice((product.kind.name, product.kind.query_name))
    phrase = [words.get("colour", ""), words.get("pattern", ""), words.get("variant", ""), name, second]
    return " ".join(word for word in phrase if word).lower(), max(1, round(BEST_SCORE * right / (1 + len(words))))
