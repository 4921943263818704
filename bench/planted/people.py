"""Invented people, hospitals and numbers, in as many spellings and formats as a country's hospitals have.

Everything comes from one `random.Random`, so a seed is a pack. Nobody here exists; what counts is that no rule of ours
can know a value beforehand: no shape of a number, no alphabet and no separator comes twice as often as another.
"""

from __future__ import annotations

import datetime
import random
import string
from dataclasses import dataclass

FAMILIES = (
    "Wiśniewska Szczepańczyk Brzęczyszczykiewicz Żółkiewska Grünzweig Müllerschön Großkopfer Öztürkmen Çelikkaya "
    "O'Flaherty D'Agostini L'Espérance Sørensdatter Ågesenius Þorvaldsdóttir Dvořáčková Hřebíčková Ñancupileo "
    "Zettelmann-Krähwinkel Van-der-Meulenaar García-Montalbán MacGillivray Papadimitriou Nagarajanathan Thorncastle "
    "Eszterházyné Kővágószőlős Ștefănescu Ionițănescu Beauregardier Quillinghast Ravensdale"
).split()
GIVEN = (
    "Zbigniewa Małgorzata Wojciechina Jürgenhard Bärbelinde Françoisette Aurélienne Siobhánna Xóchitlana Ingeborgine "
    "Þórunnella Kateřinka Bohuslavina Mehmetcana Anne-Sophiette Jean-Lucienne Marie-Thérésia Esperanzina Ottokarius "
    "Leopoldinus Crispinian Thaddeusz Wilhelmina Gwendoline"
).split()
EASTERN = (("山田伊藤佐", "太郎左衛門"), ("王小明德華", "張偉志強國"), ("김민수정호", "이서연하준"))
STREETS = ("Lindenhofgasse", "Rue des Tanneries", "ulica Świętokrzyska", "Pudding Lane", "Calle Mayordomo")
TOWNS = ("Oberneukirchstadt", "Villefranche-sur-Orbe", "Kędzierzynowo", "Little Wymondley", "Villanueva Altarejos")
HOSPITALS = (
    "Sankt-Hedwigs-Spital Altmark", "Hôpital Saint-Éloi", "Szpital Wojewódzki Łęczna", "Royal Thornbury Infirmary",
    "Clínica Peñafiel", "Bezirkskrankenhaus Südharz",
)  # fmt: skip
LOGINS = ("scanlab", "histo_op", "pathtech", "labuser", "msc-operator")


@dataclass(frozen=True)
class Person:
    """A patient with everything that names them, and those who saw them."""

    family: str
    given: str
    mrn: str
    birth: datetime.date
    street: str
    town: str
    postcode: str
    phone: str
    email: str
    insurance: str
    accession: str
    visit: datetime.datetime
    doctor: str
    login: str
    hospital: str
    serial: str
    station: str
    eastern: str = ""

    @property
    def full(self) -> str:
        return f"{self.given} {self.family}"

    @property
    def barcode(self) -> str:
        return f"{self.accession};B{int(self.serial[-1]) + 1};{int(self.serial[-2]) + 1}"

    def words(self) -> dict[str, str]:
        """Every atom of the person that is searched for anywhere, and its kind in the scorer's words."""
        found = {self.family: "person", self.given: "person", self.mrn: "id", self.accession: "id"}
        found |= {self.phone: "contact", self.email: "contact", self.street: "contact", self.town: "contact"}
        found |= {self.insurance: "id", self.doctor: "staff", self.login: "staff", self.hospital: "org"}
        found |= {self.serial: "device", self.station: "device"}
        return found


def mrn(rng: random.Random) -> str:
    """A record number in one of the formats that laboratories are known to have."""
    n = rng.randint
    return rng.choice(
        [
            f"{n(100000, 999999)}",
            f"{n(10**6, 10**7 - 1)}",
            f"{n(10**9, 10**10 - 1)}",
            f"{rng.choice(string.ascii_uppercase)}{n(10**6, 10**7 - 1)}",
            f"{n(100, 999)}-{n(10, 99)}-{n(1000, 9999)}",
            f"{n(10**5, 10**6 - 1)}/{n(10, 99)}",
            f"MRN{n(10**5, 10**6 - 1)}{rng.choice('ABCDXZ')}",
            f"00{n(10**5, 10**6 - 1)}",
        ]
    )


def accession(rng: random.Random) -> str:
    n, year = rng.randint, rng.randint(9, 25)
    return rng.choice(
        [
            f"S-20{year:02d}/{n(1000, 99999):06d}",
            f"{year:02d}PA{n(10000, 99999)}",
            f"H{year:02d}.{n(1000, 9999)}-{rng.choice('ABCD')}",
            f"E/20{year:02d}/{n(10000, 99999)}",
            f"SP{year:02d}-{n(10000, 99999)}",
            f"{n(10**6, 10**7 - 1)}-{year:02d}",
            f"B{year:02d}{n(100000, 999999)}",
        ]
    )


def person(rng: random.Random, *, eastern: bool = False) -> Person:
    family, given = rng.choice(FAMILIES), rng.choice(GIVEN)
    n = rng.randint
    phones = (
        f"+49 {n(200, 999)} {n(10**6, 10**7 - 1)}", f"0{n(10, 99)}/{n(10**6, 10**7 - 1)}",
        f"+48 {n(100, 999)} {n(100, 999)} {n(100, 999)}", f"{n(200, 999)}.{n(200, 999)}.{n(1000, 9999)}",
    )  # fmt: skip
    login = f"{rng.choice(LOGINS)}{n(100, 999)}"
    return Person(
        family=family,
        given=given,
        mrn=mrn(rng),
        birth=datetime.date(n(1925, 2005), n(1, 12), n(1, 28)),
        street=f"{rng.choice(STREETS)} {n(11, 499)}",
        town=rng.choice(TOWNS),
        postcode=f"{n(10000, 99999)}",
        phone=rng.choice(phones),
        email=f"{login}.{n(100, 999)}@posthorn.example",
        insurance=f"{rng.choice(string.ascii_uppercase)}{n(10**8, 10**9 - 1)}",
        accession=accession(rng),
        visit=datetime.datetime(n(2009, 2024), n(1, 12), n(1, 28), n(10, 23), n(10, 59), n(10, 59)),
        doctor=f"Prof. {rng.choice(FAMILIES)}",
        login=login,
        hospital=rng.choice(HOSPITALS),
        serial=f"{rng.choice(['SN', 'FS', 'DP-', 'C'])}{n(10**6, 10**7 - 1)}",
        station=f"{rng.choice(['HISTOLAB', 'WS-PATH', 'SCANPC'])}-{n(100, 999)}",
        eastern="^".join(rng.choice(EASTERN)) if eastern else "",
    )
