# ruff: noqa: E501  (the line length counts wide characters twice)
r"""How languages other than English give an answer: "答案是42。", "Die Antwort ist 4,5.", "Ответ: Б".

    language_of("Die Antwort ist also 4,5.")      # German

The one rule: a language is data; what is not in its row is not understood. Not covered: how its
numbers are written (`kit.answers.numerals`); English, whose patterns are in
`kit.answers.statements` and `kit.answers.latex`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache

_SAMPLE = 600  # characters from the end of a text that show its language
NOTHING = r"(?!)"  # a pattern that matches nowhere
_MAX_COUNT_LETTERS = 20
CYRILLIC = "\u0400-\u04ff"


@dataclass(frozen=True, slots=True, eq=False)  # a row is itself: its hash is asked for often
class Language:
    """The words of one language that matter to an answer.

    `nouns` mean "answer", `options` mean "option" or "I choose", `verbs` mean "is"; all are regular
    expressions. `common` are frequent words, needed only where the script does not tell.
    """

    code: str
    nouns: str
    verbs: str
    options: str = NOTHING
    negations: str = NOTHING
    joints: str = r"(?!)"  # and, or
    changes: str = r"(?!)"  # words after a number that change it
    percent: str = NOTHING
    percent_before: str = NOTHING
    scales: dict[str, int] = field(default_factory=dict)  # powers of ten
    script: str = ""  # characters of its own; "" for Latin
    common: str = ""
    decimal_comma: bool = False
    verb_last: bool = False  # the verb or the denial follows the value
    endings: str = ""  # verbs at the end of a sentence
    letters: str = ""  # its letters for the first choices, each followed by the Latin one

    @property
    def is_spaced(self) -> bool:
        """Tell whether words are separated by spaces."""
        return self.code not in ("zh", "ja", "th")


LANGUAGES = (
    Language(
        code="ja", script="\u3040-\u30ff", nouns="答え|答|正解|解答|回答", verbs="は|が|も",
        options="選択肢|選ぶのは", negations="(?:では|じゃ)(?:ない|ありません)|違", joints="と|または|か|や|、",
        changes="倍|から|以上|以下|未満|または|か[^月所国]|と|や|分の|割|.{0,2}半|余り|あまり|より|対|[万億兆千百]|パーセント",
        percent="パーセント|％", scales={"百": 2, "千": 3, "万": 4, "億": 8, "兆": 12}, verb_last=True,
        endings="です|である|だ|になります|となります|でした", letters="アAイBウCエD",
    ),
    Language(
        code="ko", script="\uac00-\ud7af", nouns="정답|답변|해답|답", verbs="은|는|이|가",
        options="선택지|보기|옵션", negations="아니|아닙|않", joints="와|과|또는|및|이나|하고",
        changes="배|부터|에서|까지|또는|와|과|이상|이하|미만|분의|반|보다|[만억조천백]|퍼센트|프로|.{0,3}반(?:$|입)",
        percent="퍼센트|프로", scales={"백": 2, "천": 3, "만": 4, "억": 8, "조": 12}, verb_last=True,
        endings="입니다|이다|이에요|예요|임", letters="가A나B다C라D",
    ),
    Language(
        code="zh", script="\u3400-\u9fff", nouns="答案|答复|答", verbs="就?是|应?为|應?為|等于|等於|选|選",
        options="选项|選項|故选|应选|选择|选|故選|應選|選擇|選", negations="不|非|没", joints="和|或|与|及|或者|、",
        changes="倍|到|至|或|和|与|及|、|分之|.{0,2}半|多|余|以上|以下|以内|成|折|比|点|又|[万亿萬億]|[千百](?![克米瓦卡焦帕分])",
        percent="%", percent_before="百分之",
        scales={"百(?!分)": 2, "千(?![克米瓦卡焦帕])": 3, "[万萬]": 4, "[亿億]": 8},
    ),
    Language(
        code="ru", script=CYRILLIC, nouns="ответ(?:ом)?", options="вариант",
        verbs="равен|равна|равно|составляет|является|это|будет|есть", negations="не", joints="и|или",
        changes="или|и|до|раза?|из|на|больше|меньше|с половиной|тыс|млн|млрд|плюс|минус|дюжин",
        percent="процент(?:а|ов)?", decimal_comma=True, letters="АAБBГDДEСC",
        scales={"тысячи?|тысяча|тыс\\.?": 3, "миллион(?:а|ов)?|млн\\.?": 6, "миллиард(?:а|ов)?|млрд\\.?": 9},
    ),
    Language(
        code="ar", script="\u0600-\u06ff", nouns="الإجابة|الاجابة|إجابة|الجواب|جواب", options="الخيار|الاختيار",
        verbs="هي|هو|تساوي|يساوي|ستكون|سيكون", negations="ليست|ليس|غير|لا", joints="و|أو",
        changes="أو|و|إلى|الى|ضعف|أضعاف|مرات|من|أكثر|أقل|ونصف|ألف|آلاف|مليون|مليار|ملايين",
        percent="بالمئة|بالمائة|في المئة|في المائة", letters="أAبBجCدD",
        scales={"ألفا?|آلاف": 3, "مليون|ملايين": 6, "مليار|مليارات": 9},
    ),
    Language(
        code="hi", script="\u0900-\u097f", nouns="उत्तर|जवाब", verbs="है|होगा", options="विकल्प",
        negations="नहीं", joints="या|और", changes="या|और|से|गुना|गुणा|आधा|हज़ार|हजार|लाख|करोड़|प्रतिशत",
        percent="प्रतिशत", scales={"हज़ार|हजार": 3, "लाख": 5, "करोड़": 7}, verb_last=True,
        letters="कAखBगCघD",
    ),
    Language(
        code="bn", script="\u0980-\u09ff", nouns="উত্তর(?:টি)?", verbs="হলো|হল|হচ্ছে|হবে|ঃ", options="বিকল্প|অপশন",
        negations="নয়|না", joints="বা|এবং|ও", changes="বা|এবং|থেকে|গুণ|হাজার|লাখ|লক্ষ|কোটি|শতাংশ",
        percent="শতাংশ", scales={"হাজার": 3, "লাখ|লক্ষ": 5, "কোটি": 7}, verb_last=True,
        letters="কAখBগCঘDঅAবBডCঢD",
    ),
    Language(
        code="th", script="\u0e00-\u0e7f", nouns="คำตอบ", verbs="คือ|เท่ากับ|เป็น", options="ตัวเลือก|ข้อ",
        negations="ไม่ใช่|ไม่", joints="หรือ|และ", changes="หรือ|และ|ถึง|เท่า|ครึ่ง|พัน|หมื่น|แสน|ล้าน|เปอร์เซ็นต์",
        percent="เปอร์เซ็นต์", scales={"พัน": 3, "หมื่น": 4, "แสน": 5, "ล้าน": 6}, letters="กAขBคCงD",
    ),
    Language(
        code="te", script="\u0c00-\u0c7f", nouns="సమాధానం|జవాబు", verbs="అవుతుంది", options="ఎంపిక",
        negations="కాదు", joints="లేదా|మరియు", changes="లేదా|మరియు|నుండి|రెట్లు|వేల|లక్ష|కోట్ల|శాతం",
        percent="శాతం", verb_last=True,
    ),
    Language(
        code="de", nouns="antwort|endantwort", verbs="ist|lautet|wäre|sind|beträgt", options="option|antwortmöglichkeit|buchstabe",
        negations="nicht|keine?|weder", joints="und|oder",
        changes="mal|bis|oder|und|von|plus|minus|geteilt|dutzend|viertel|drittel|zehntel|hälfte|mehr|weniger|einhalb"
        "|prozent|tausend|million(?:en)?|milliarden?|hoch",
        percent="prozent", decimal_comma=True,
        scales={"tausend": 3, "million(?:en)?": 6, "milliarden?": 9},
        common="der die das und ist sind ein eine einen also insgesamt hat für mit von zu pro nach daher somit antwort"
        " beträgt es sie er wir nicht den dem auf lautet richtige kostet hatte wird werden noch jeder euro ihr man im am",
    ),
    Language(
        code="fr", nouns="réponse|reponse", verbs="est|sont|serait|sera|vaut", options="option|choix|proposition|lettre",
        negations="pas|ni", joints="et|ou",
        changes="fois|ou|et|à|sur|de plus|plus|moins|demi|virgule|mille|millions?|milliards?|pour cent|pourcents?"
        "|douzaines?|tiers|quarts?|dixièmes?",
        percent="pour cent|pourcents?", decimal_comma=True, scales={"mille": 3, "millions?": 6, "milliards?": 9},
        common="le la les est sont donc un une des du au aux et il elle nous total pour par avec dans qui que coûte"
        " réponse finale bonne reste en de ce a ont elles ils chaque euros ainsi alors son sa ses était plus pas",
    ),
    Language(
        code="es", nouns="respuesta", verbs="es|son|sería|será", options="opción|alternativa|letra", negations="no",
        joints="y|o|e|u",
        changes="veces|o|y|a|de cada|por cada|más|menos|medio|mil|mill[oó]n(?:es)?|por ciento|docenas?|tercios?"
        "|cuartos?|décimos?",
        percent="por ciento", decimal_comma=True, scales={"mil": 3, "mill[oó]n(?:es)?": 6},
        common="el la los las es son por lo tanto un una y en total tiene con para que respuesta quedan cuesta del"
        " de se correcta entonces a al cada más dólares pesos euros hay su le fue gastó él ella",
    ),
    Language(
        code="pt", nouns="resposta", verbs="é|são|seria|será", options="opção|alternativa|letra", negations="não",
        joints="e|ou",
        changes="vezes|ou|e|a|de cada|mais|menos|meio|mil|milh(?:ão|ões)|bilh(?:ão|ões)|por cento|dúzias?|terços?"
        "|quartos?|décimos?",
        percent="por cento", decimal_comma=True,
        scales={"mil": 3, "milh(?:ão|ões)": 6, "bilh(?:ão|ões)": 9},
        common="o a os as é são por portanto um uma e em no na total tem com para que resposta do da dos não ele"
        " ela custa correta então logo ao cada mais reais gastou foi seu sua há",
    ),
    Language(
        code="it", nouns="risposta", verbs="è|sono|sarebbe|sarà", options="opzione|alternativa|lettera", negations="non",
        joints="e|o|oppure",
        changes="volte|o|e|a|su|più|meno|mezzo|mila|milion[ei]|miliard[oi]|per cento|dozzin[ae]|terzi|quarti|decimi",
        percent="per cento", decimal_comma=True, scales={"mila": 3, "milion[ei]": 6, "miliard[oi]": 9},
        common="il lo la gli le è sono quindi un una di del della per in totale con che risposta corretta ha costa"
        " dunque e non si al ogni euro ha più suo sua ci",
    ),
    Language(
        code="nl", nouns="antwoord", verbs="is|zijn|luidt|wordt", options="optie|keuze", negations="niet|geen",
        joints="en|of", changes="keer|maal|tot|of|en|van|procent|duizend|miljoen|miljard", percent="procent",
        decimal_comma=True, scales={"duizend": 3, "miljoen": 6, "miljard": 9},
        common="het de een is zijn dus en van voor met antwoord totaal er heeft juiste niet",
    ),
    Language(
        code="pl", nouns="odpowiedź|odpowiedzią", verbs="to|jest|brzmi|wynosi", options="opcja",
        negations="nie", joints="i|lub|albo", changes="razy|do|lub|i|z|tysi[ąę]c[ye]?|milion(?:y|ów)?|procent",
        percent="procent", decimal_comma=True, scales={"tysi[ąę]c[ye]?": 3, "milion(?:y|ów)?": 6},
        common="jest to i w na z więc odpowiedź odpowiedzią razem ma się nie oraz zatem prawidłowa",
    ),
    Language(
        code="tr", nouns="cevap|cevabı|yanıt", verbs="şudur", options="seçenek|şık", negations="değil",
        joints="ve|veya|ya da", changes="kez|kat|veya|ve|ile|bin|milyon|milyar|buçuk|yüzde|düzine",
        percent=NOTHING, percent_before="yüzde|%", decimal_comma=True, verb_last=True,
        scales={"bin": 3, "milyon": 6, "milyar": 9},
        common="ve bir bu için toplam cevap doğru olarak olur vardır ile da de sonuç",
    ),
    Language(
        code="vi", nouns="đáp án|câu trả lời|đáp số|trả lời", verbs="là", options="phương án|lựa chọn",
        negations="không", joints="và|hoặc|hay",
        changes="lần|hoặc|hay|và|đến|nghìn|ngàn|triệu|tỷ|phần|rưỡi|tá", percent="phần trăm", decimal_comma=True,
        scales={"nghìn|ngàn": 3, "triệu": 6, "tỷ": 9},
        common="là và của có trong vậy đáp án số được cho không tổng do đó còn",
    ),
    Language(
        code="id", nouns="jawaban(?:nya)?", verbs="adalah|ialah|yaitu", options="opsi|pilihan", negations="bukan",
        joints="dan|atau", changes="kali|atau|dan|sampai|hingga|ribu|juta|miliar|persen|lusin|setengah",
        percent="persen", decimal_comma=True, scales={"ribu": 3, "juta": 6, "miliar": 9},
        common="yang dan adalah di jadi dengan untuk jawaban dari total ada jawabannya benar ini",
    ),
    Language(
        code="sw", nouns="jibu", verbs="ni", options="chaguo", negations="si", joints="na|au",
        changes="mara|au|na|nusu", percent_before="asilimia",
        common="ni na ya wa kwa jibu jumla ana hivyo sahihi katika kwamba",
    ),
    Language(code="yo", nouns="ìdáhùn|idáhùn|idahun|àdáhùn|adahun", verbs="ni|jẹ́"),
)  # fmt: skip
_ENGLISH_WORDS = """
the is are of and a to in so we for that therefore answer no total he she it has have was were with on at by this be his her
they you i than then there will each per from as or if not get can one equals thus hence do me son an total since
"""
_ENGLISH = frozenset(_ENGLISH_WORDS.split())
# words that English has too, and single letters, tell nothing
_COMMON = {
    language: frozenset(word for word in language.common.split() if len(word) > 1) - _ENGLISH
    for language in LANGUAGES
}
_SCRIPTS = [
    (language, re.compile(f"[{language.script}]")) for language in LANGUAGES if language.script
]


_FILLER = (
    r"(?:donc|alors|ainsi|also|daher|somit|genau|entonces|por lo tanto|por tanto|portanto|então"
    r"|quindi|dunque|dus|więc|jadi|exactement|exactamente|так что|таким образом|就是|则是)"
)


@lru_cache(maxsize=64)
def words_of(language: Language) -> frozenset[str]:
    """Return words of a language that are no variables, even those of one letter."""
    return frozenset(
        [*language.common.split(), *language.joints.split("|"), *language.changes.split("|")]
    )


@lru_cache(maxsize=64)
def verb_of(language: Language) -> re.Pattern[str]:
    """Return the pattern of "is" and the spaces behind it."""
    end = r"(?!\w)" if language.is_spaced else ""
    start = r"(?<!\w)" if language.is_spaced and language.code != "ko" else ""
    return re.compile(rf"{start}(?:{language.verbs}){end}\s*")


@lru_cache(maxsize=64)
def negation_of(language: Language) -> re.Pattern[str]:
    """Return the pattern of "not"."""
    return re.compile(rf"(?:{language.negations})(?!\w)", re.IGNORECASE)


@lru_cache(maxsize=64)
def change_of(language: Language) -> re.Pattern[str]:
    """Return the pattern of a word that changes the number before it."""
    end = r"(?!\w)" if language.is_spaced and language.code != "ko" else ""
    return re.compile(rf"(?:{language.changes}){end}", re.IGNORECASE)


@lru_cache(maxsize=128)
def statement_of(language: Language, options: bool) -> re.Pattern[str]:
    """Return the pattern of "the answer is", or "Answer:", in a language.

    Up to six words may stand in between. Where the verb comes last, so may the value itself.
    """
    nouns = f"{language.nouns}|{language.options}" if options else language.nouns
    edge = r"\b" if language.script in ("", CYRILLIC) else ""
    if language.is_spaced:
        between, end = r"(?:[ \t]{1,3}[^\s.:：;=،,]{1,24}){0,6}?", r"(?![^\W\d_])"
    else:
        between, end = r"[^\s。.:：;；=，,\d\"]{0,10}?", ""
    end = "" if language.code == "ko" else end
    space = r"[ \t]{1,3}" if edge else r"[ \t]{0,3}"
    value = r"[-+]?[\d$\\(]|\(?[A-J](?![A-Za-z])"
    bare = rf"[ \t]{{1,3}}(?={value})" if language.verb_last else NOTHING
    return re.compile(
        rf"{edge}(?:{nouns})(?P<between>{between})"
        rf"(?P<negation>{space}(?:{language.negations}))?(?:[ \t]{{0,3}}[*_]{{1,3}})?"
        rf"(?:{space}(?:n['’])?(?P<verb>(?:{language.verbs}){end})"
        rf"|[ \t\u00a0]{{0,3}}[:：=＝】]|[ \t]{{1,3}}[-–—](?=[ \t])|{bare}"
        rf"|(?(negation)[ \t]{{1,3}}(?={value})|(?!)))"
        r"[ \t]{0,3}(?:[*_]{1,3}[ \t]{0,3})?[:：、，]?[ \t]{0,3}(?:[*_]{1,3})?"
        rf"(?:{_FILLER}(?!\w)[ \t]{{0,2}}:?[ \t]{{0,2}}[*_]{{0,3}})?",
        re.IGNORECASE,
    )


def is_denied(language: Language, match: re.Match[str], content: str) -> bool:
    """Tell whether a statement, and the text behind it, say "is not"."""
    negation = _denial_of(language)
    clause = re.split(r"[,.;，。、；।]", content[:80], maxsplit=1)[0]
    return bool(
        match["negation"]
        or negation.search(match["between"])
        or (language.verb_last and negation.search(clause))
        or negation.match(clause)
    )


@lru_cache(maxsize=64)
def _denial_of(language: Language) -> re.Pattern[str]:
    """Return the pattern of "not" and the spaces before it."""
    is_word = language.script in ("", CYRILLIC)
    start, end = (r"(?<!\w)", r"(?!\w)") if is_word else ("", "")
    return re.compile(rf"[ \t]*{start}(?:{language.negations}){end}", re.IGNORECASE)


@lru_cache(maxsize=128)
def stems_of(language: Language, options: bool) -> tuple[str, ...]:
    """Return plain beginnings of the nouns: to look for them takes a tenth of the time."""
    nouns = re.split(r"\|(?![^(]*\))", language.nouns)
    stems = tuple(re.split(r"[(\[?]", noun)[0].casefold() for noun in nouns)
    if options and language.options != NOTHING:
        stems += tuple(language.options.casefold().split("|"))
    return stems


@lru_cache(maxsize=4)
def all_stems(options: bool, is_ascii: bool) -> tuple[str, ...]:
    """Return the stems of all languages; those that an ASCII text may contain."""
    stems = [stem for language in LANGUAGES for stem in stems_of(language, options)]
    return tuple(dict.fromkeys(stem for stem in stems if stem.isascii() or not is_ascii))


def is_foreign_count(text: str) -> bool:
    """Tell whether a text is a few letters of another script that leave a number alone: 12元, 12人.

    Words of any language that scale or change a number are none.
    """
    letters = text.replace(" ", "").rstrip(".")
    return (
        0 < len(letters) <= _MAX_COUNT_LETTERS
        and letters.isalpha()
        and letters[0] > "\xbf"
        and _changes(is_spaced=False).search(text) is None
        and not any(map(_changes(is_spaced=True).fullmatch, re.split(r"[\s.]+", text)))
    )


@lru_cache(maxsize=2)
def _changes(*, is_spaced: bool) -> re.Pattern[str]:
    words = [
        pattern
        for language in LANGUAGES
        for pattern in (language.changes, language.percent, *language.scales)
        if pattern != NOTHING and (language.is_spaced and language.code != "ko") == is_spaced
    ]
    return re.compile("|".join(words), re.IGNORECASE)


def language_of(text: str) -> Language | None:
    """Return the language of the end of a text; None for English and where it is not clear."""
    sample = text[-_SAMPLE:]
    if not sample.isascii():
        letters = sum(map(str.isalpha, sample))
        for language, script in _SCRIPTS:
            if 4 * len(script.findall(sample)) >= max(letters, 4):
                return language
    words = set(re.findall(r"[^\W\d_]+", sample.casefold()))
    n_english = len(words & _ENGLISH)
    counts = {language: len(words & common) for language, common in _COMMON.items()}
    best = max(counts, key=lambda language: counts[language])
    return best if counts[best] >= max(2, n_english + 1) else None
