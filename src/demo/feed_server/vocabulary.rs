//! What generated posts and their authors are made of. What a filter searches of it can be no track word.

/// Sentences without the word: language, text. Texts are as v1.1 has them, `&`, `<` and `>` as HTML entities.
pub(super) const SENTENCES: [(&str, &str); 36] = [
    ("en", "Just finished the long run along the river, legs are done"),
    ("en", "Does anybody know a good place for ramen near the station?"),
    ("en", "Reading on the train again \u{1f4d6}\u{1f687}"),
    ("en", "He said \"never again\" and then did it again"),
    ("en", "Path is C:\\temp\\new and the other one is /usr/local"),
    ("en", "Tom &amp; Jerry &lt;3 that is all I need today"),
    ("en", "first line\nsecond line\n\nlast line"),
    ("en", "tabs\tand bells\u{7} and escapes \u{1b}[31mred\u{1b}[0m in one post"),
    (
        "en",
        "Our family \u{1f468}\u{200d}\u{1f469}\u{200d}\u{1f467}\u{200d}\u{1f466} at the beach \u{1f3d6}\u{fe0f}",
    ),
    (
        "en",
        "Proud day \u{1f3f3}\u{fe0f}\u{200d}\u{1f308} \u{1f9d1}\u{1f3fd}\u{200d}\u{1f680} \u{1f44d}\u{1f3ff}",
    ),
    ("en", "line separator\u{2028}paragraph separator\u{2029}zero width\u{200b}space"),
    ("en", "it costs 5\u{20ac} or \u{a3}4, that is {\"price\": 5} in JSON"),
    ("en", "'single' and `back` quotes \u{2014} and dashes \u{2013} too\u{2026}"),
    ("ja", "今日はとても良い天気ですね。散歩に行きたいです"),
    ("ja", "新しい本を買いました！週末に読むのが楽しみ📚"),
    ("ja", "電車が遅れていて会議に間に合わないかも😭"),
    ("ja", "「ありがとう」と言われると嬉しい"),
    ("ja", "ﾊﾝｶｸｶﾅと全角ＡＢＣと①②③が混ざった文"),
    ("ja", "１行目\n２行目\n３行目は長めに書いておきますね"),
    ("ja", "ラーメン食べたい🍜 誰か一緒に行きませんか？"),
    ("ja", "猫が膝の上から動いてくれないので仕事ができません🐈‍⬛"),
    ("ja", "が゛と が は違う文字列です"),
    ("fr", "Déjà vu à la gare, où l'été n'en finit pas"),
    ("fr", "Le cœur a ses raisons que la raison ne connaît point"),
    ("de", "Heute gibt's Käsespätzle, größer geht's nicht"),
    ("de", "Straßenbahn verpaßt, schöne Grüße aus Köln"),
    ("es", "¿Dónde está la biblioteca? ¡Mañana será otro día!"),
    ("pt", "Não há nada melhor que um café da manhã tranquilo"),
    ("tr", "İstanbul'da ılık bir akşam, ışıklar çok güzel"),
    ("vi", "Tiếng Việt có nhiều dấu e\u{301} o\u{302}\u{300}"),
    ("ar", "مرحبا بكم في هذا اليوم الجميل"),
    ("he", "שלום לכולם, איזה יום יפה"),
    ("fa", "می\u{200c}خواهم امروز به کتابخانه بروم"),
    ("ko", "오늘 점심은 김치찌개로 정했어요"),
    ("ru", "Сегодня первый снег, и город сразу стал тише"),
    ("th", "วันนี้อากาศดีมากเลย"),
];

pub(super) const HASHTAGS: [&str; 8] = [
    "NowPlaying",
    "猫のいる暮らし",
    "Montag",
    "photooftheday",
    "été2018",
    "ランチ",
    "100DaysOfCode",
    "صباح",
];

pub(super) const NAMES: [&str; 10] = [
    "Alex Example",
    "さくら🌸",
    "José Núñez",
    "M\u{fc}ller \"Mucki\"",
    "تجربة",
    "the\\slash/er",
    "한국 사람",
    "\u{1f469}\u{200d}\u{1f4bb} dev",
    "Old Greg",
    "名無しさん",
];

pub(super) const DESCRIPTIONS: [&str; 5] = [
    "Coffee first. Opinions are mine, retweets are not endorsements.",
    "東京在住。猫と本とラーメンが好きです。無言フォロー失礼します🙇",
    "Ma\u{ee}tre de conf\u{e9}rences \u{2022} p\u{e8}re de deux\nhttps:\\\\ nope",
    "Football \u{26bd}, tea & \"quotes\"",
    "she/her \u{1f3f3}\u{fe0f}\u{200d}\u{1f308} | views &gt; news",
];

pub(super) const LOCATIONS: [&str; 5] = ["東京", "Paris, France", "Somewhere", "Köln", ""];

pub(super) const SOURCES: [&str; 4] = [
    r#"<a href="http://twitter.com/download/iphone" rel="nofollow">Twitter for iPhone</a>"#,
    r#"<a href="http://twitter.com/download/android" rel="nofollow">Twitter for Android</a>"#,
    r#"<a href="https://mobile.twitter.com" rel="nofollow">Twitter Web App</a>"#,
    r#"<a href="http://twittbot.net/" rel="nofollow">twittbot.net</a>"#,
];

/// Words that stand in posts outside the sentences.
pub(super) const OTHER_WORDS: &str =
    "RT https http t co com net org www twitter status web i example blog news article";
