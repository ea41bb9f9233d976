"""Rows that nothing is wrong with, in many languages and with all that honest texts hold.

Phrases are combined by number alone, so equal counts give equal rows.
"""

import json
import unicodedata
from collections.abc import Iterator

RLM, LRM, ALM, ZWNJ, ZWJ = "\u200f", "\u200e", "\u061c", "\u200c", "\u200d"
FSI, RLI, PDI = "\u2068", "\u2067", "\u2069"

# language: subjects, questions about one, openings of an answer, endings of one
LANGUAGES: dict[str, tuple[list[str], list[str], list[str], list[str]]] = {
    "English": (
        ["bread", "the moon", "a bicycle", "rain", "a river"],
        ["How would you explain {} to a child?", "What is worth knowing about {}?"],
        ["In short, {} is simpler than it looks", "There’s a lot to say about {}"],
        ["so begin with what you can see.", "but don’t take my word for it—try it."],
    ),
    "German": (
        ["Brot", "der Mond", "ein Fahrrad", "Regen", "ein Fluß"],
        ["Wie würdest du {} einem Kind erklären?", "Was sollte man über {} wissen?"],
        ["Kurz gesagt: {} ist einfacher, als es aussieht", "Über {} lässt sich viel sagen"],
        ["also fang mit dem an, was du siehst.", "„am besten selbst ausprobieren“, sage ich."],
    ),
    "French": (
        ["le pain", "la lune", "un vélo", "la pluie", "un fleuve"],
        ["Comment expliquer {} à un enfant ?", "Que faut-il savoir sur {} ?"],
        ["En bref, {} est plus simple qu’il n’y paraît", "Il y a beaucoup à dire sur {}"],
        ["commencez donc par ce qui se voit.", "« essayez vous-même », voilà mon conseil."],
    ),
    "Spanish": (
        ["el pan", "la luna", "una bicicleta", "la lluvia", "un río"],
        ["¿Cómo explicarías {} a un niño?", "¿Qué conviene saber sobre {}?"],
        ["En pocas palabras, {} es más sencillo de lo que parece", "Hay mucho que decir sobre {}"],
        ["así que empieza por lo que ves.", "¡pruébalo tú mismo, mañana!"],
    ),
    "Russian": (
        ["хлеб", "луна", "велосипед", "дождь", "река"],
        ["Как объяснить ребёнку, что такое {}?", "Что стоит знать про {}?"],
        ["Коротко: {} — это проще, чем кажется", "Про {} можно сказать многое"],
        ["поэтому начните с того, что видно.", "но лучше попробуйте сами."],
    ),
    "Arabic": (
        ["الخبز", "القمر", "الدراجة", "المطر", "النهر"],
        ["كيف تشرح {} لطفل؟", "ما الذي يجدر معرفته عن {}؟"],
        ["باختصار، {} أبسط مما يبدو", "يمكن قول الكثير عن {}"],
        ["فابدأ بما تراه.", f"جرّب ذلك بنفسك (Python 3{RLM})."],
    ),
    "Hebrew": (
        ["לחם", "הירח", "אופניים", "גשם", "נהר"],
        ["איך תסביר {} לילד?", "מה כדאי לדעת על {}?"],
        ["בקיצור, {} פשוט יותר ממה שנראה", "אפשר לומר הרבה על {}"],
        ["לכן התחל במה שרואים.", f"נסה בעצמך: C++{LRM}, שָׁלוֹם!"],
    ),
    "Persian": (
        ["نان", "ماه", "دوچرخه", "باران", "رودخانه"],
        [
            f"{{}} را چگونه برای یک کودک توضیح می{ZWNJ}دهید؟",
            f"درباره{ZWNJ}ی {{}} چه باید دانست؟",
        ],
        [f"کوتاه بگویم، {{}} ساده{ZWNJ}تر از آن است که می{ZWNJ}نماید", "دربارهٔ {} سخن بسیار است"],
        [f"پس با آنچه می{ZWNJ}بینید آغاز کنید.", f"خودتان آن را بیازمایید {ALM}۱۲."],
    ),
    "Hindi": (
        ["रोटी", "चाँद", "साइकिल", "बारिश", "नदी"],
        ["आप किसी बच्चे को {} कैसे समझाएँगे?", "{} के बारे में क्या जानना चाहिए?"],
        ["संक्षेप में, {} जितना दिखता है उससे सरल है", "{} के बारे में बहुत कुछ कहा जा सकता है"],
        [f"इसलिए जो दिखे उसी से शुरू करें, क्{ZWJ}ष।", "खुद आज़माकर देखें।"],
    ),
    "Bengali": (
        ["রুটি", "চাঁদ", "সাইকেল", "বৃষ্টি", "নদী"],
        ["একটি শিশুকে {} কীভাবে বোঝাবেন?", "{} সম্পর্কে কী জানা দরকার?"],
        ["সংক্ষেপে, {} যতটা মনে হয় তার চেয়ে সহজ", "{} নিয়ে অনেক কিছু বলা যায়"],
        ["তাই যা দেখা যায় তা দিয়ে শুরু করুন।", "নিজেই চেষ্টা করে দেখুন।"],
    ),
    "Thai": (
        ["ขนมปัง", "ดวงจันทร์", "จักรยาน", "ฝน", "แม่น้ำ"],
        ["คุณจะอธิบาย{}ให้เด็กฟังอย่างไร", "ควรรู้อะไรเกี่ยวกับ{}บ้าง"],
        ["พูดสั้นๆ {}ง่ายกว่าที่เห็น", "มีเรื่องให้เล่าเกี่ยวกับ{}มากมาย"],
        ["เริ่มจากสิ่งที่คุณเห็นก่อน", "ลองทำดูเองนะครับ"],
    ),
    "Chinese": (
        ["面包", "月亮", "自行车", "雨", "河流"],
        ["你会怎样向孩子解释{}？", "关于{}有什么值得知道的？"],
        ["简单来说，{}比看起来容易", "关于{}可以说很多"],
        ["所以先从看得见的开始。", "自己试一试吧！𠮷𡈽"],
    ),
    "Japanese": (
        ["パン", "月", "自転車", "雨", "川"],
        ["子どもに{}をどう説明しますか？", "{}について知っておくべきことは？"],
        ["一言で言うと、{}は見た目より簡単です", "{}については話すことがたくさんあります"],
        ["まず目に見えるものから始めましょう。", "「自分で試してみてください」。"],
    ),
    "Korean": (
        ["빵", "달", "자전거", "비", "강"],
        ["아이에게 {}을(를) 어떻게 설명하시겠어요?", "{}에 대해 무엇을 알아야 할까요?"],
        ["간단히 말해 {}은(는) 보기보다 쉽습니다", "{}에 대해 할 말이 많습니다"],
        ["그러니 보이는 것부터 시작하세요.", "직접 해 보세요."],
    ),
    "Greek": (
        ["το ψωμί", "το φεγγάρι", "ένα ποδήλατο", "η βροχή", "ένα ποτάμι"],
        ["Πώς θα εξηγούσες σε ένα παιδί τι είναι {};", "Τι αξίζει να ξέρει κανείς για {};"],
        ["Με λίγα λόγια, {} είναι πιο απλό απ’ όσο φαίνεται", "Πολλά μπορούν να ειπωθούν για {}"],
        ["άρα ξεκίνα από ό,τι βλέπεις.", "δοκίμασέ το μόνος σου!"],
    ),
    "Turkish": (
        ["ekmek", "ay", "bisiklet", "yağmur", "ırmak"],
        ["Bir çocuğa {} nasıl anlatılır?", "İnsan {} hakkında ne bilmeli?"],
        ["Kısacası {} göründüğünden daha kolaydır", "{} hakkında söylenecek çok şey var"],
        ["öyleyse gördüğünle başla.", "kendin dene, ığdır’da bile olur."],
    ),
    "Portuguese": (
        ["o pão", "A LUA, OU NÃO", "uma bicicleta", "a chuva", "um rio de SÃO PAULO"],
        ["Como você explicaria {} a uma criança?", "O que vale a pena saber sobre {}?"],
        ["Em resumo, {} é mais simples do que parece", "HÁ MUITO A DIZER SOBRE: {}"],
        ["então comece pelo que se vê.", "É SÓ EXPERIMENTAR; ATENÇÃO À LIÇÃO!"],
    ),
    "Vietnamese": (
        ["bánh mì", "mặt trăng", "xe đạp", "mưa", "dòng sông"],
        ["Bạn sẽ giải thích {} cho trẻ em thế nào?", "Nên biết gì về {}?"],
        ["Nói ngắn gọn, {} đơn giản hơn vẻ ngoài", "Có nhiều điều để nói về {}"],
        ["vậy hãy bắt đầu từ những gì bạn thấy.", "hãy tự mình thử xem."],
    ),
}

EXTRAS = [
    "",
    f" 👩{ZWJ}💻👨{ZWJ}👩{ZWJ}👧{ZWJ}👦 🏳️{ZWJ}🌈 👍🏽",
    " 🇩🇪🇯🇵🇧🇷 🏴\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f 1️⃣ ☕️",
    "\n```python\ndef f(x):\n\treturn x ** 2  # ≤ 10\n```\n",
    "\r\nfirst line\r\nsecond line\r\n",
    "\tcolumn\tcolumn\ttab\t",
    " $\\int_0^\\infty e^{-x^2}\\,dx = \\frac{\\sqrt{\\pi}}{2}$, ∀ε>0 ∃δ: |x−a|<δ ⇒ |f(x)−f(a)|<ε",
    ' <p class="note">R&amp;D &lt;b&gt; <br/> <s>old</s> <!-- none --></p> &nbsp;',
    ' {"role": "user", "content": "it\\u0027s \\"quoted\\"", "ids": [1, 2.5e-3, null]}',
    " C:\\temp\\new\\u0041 \\n %s {} {0} ${HOME} $(ls) `id` ' \" \\",
    f" {FSI}https://example.org/?q=%E2%82%AC&a=1{PDI} {RLI}עברית{PDI} user@example.org",
    " =SUM(A1:A9) +1 -1 @name __class__ $ref ../../etc/passwd; DROP TABLE rows; --",
    " \u2028line\u2029paragraph\u00a0no-break\u202fnarrow\u3000wide\u2060joiner",
    " NaN null None true undefined inf 1e999 007 0x1F -0.0",
    " Human: said the human.\nAssistant: said the assistant. ### Response: [x]",
    " ŒuvreÆther ﬁne ½ ² ™ … “quotes” ‘single’ – — • ° € £ ¥ ₹ ₿",
    " Ω Å K ﷺ ㎏ Ⅻ ｆｕｌｌｗｉｄｔｈ",
    " z̸̢a̷l̶g̵o̴ ñ ñ é é",
    " ◌҉ ៛ ༄ ᚠᚢᚦ 𓀀𓁐 𝔘𝔫𝔦𝔠𝔬𝔡𝔢 ♔♕ ▓▒░ ┌─┐",
    "\n| a | b |\n|---|---|\n| 1 | 2 |\n\n* list\n  - nested\n1. one\n",
]
"""What may stand at the end of an honest text."""

LONG_EVERY = 997
"""Rows of this number have an answer of about 100 kB."""


def _texts(number: int) -> tuple[str, str, str]:
    """A question and two answers, other ones for every number."""
    names = list(LANGUAGES)
    subjects, questions, openings, endings = LANGUAGES[names[number % len(names)]]
    rest = number // len(names)
    subject = subjects[rest % len(subjects)]
    question = questions[rest // 5 % len(questions)].format(subject)
    opening = openings[rest // 3 % len(openings)].format(subject)
    ending = endings[rest // 2 % len(endings)]
    extra = EXTRAS[number // 7 % len(EXTRAS)]
    answer = f"{opening}, {ending}{extra} {number}"
    other = f"{ending} {opening}. {number}{EXTRAS[number // 11 % len(EXTRAS)]}"
    if number % LONG_EVERY == LONG_EVERY - 1:
        answer = f"{number}: " + f"{opening}, {ending} " * (100_000 // len(f"{opening}{ending}"))
    form = "NFD" if number % 3 == 1 else "NFC"
    question, answer, other = (
        text if number % 3 == 2 else unicodedata.normalize(form, text)
        for text in (f"{question} ({number})", answer, other)
    )
    return question, answer, other


def clean_rows(count: int) -> Iterator[dict[str, object]]:
    """Pairs, each with a prompt of its own."""
    for number in range(count):
        question, answer, other = _texts(number)
        chosen, rejected = (answer, other) if number % 2 else (other, answer)
        yield {"prompt": question, "chosen": chosen, "rejected": rejected, "source": "made"}


def line_of(row: dict[str, object], number: int) -> str:
    """The row as JSON, by turns with characters as they are and as escapes."""
    return json.dumps(row, ensure_ascii=number % 5 == 0)
