"""What the demo's agent is asked, and all that it ever thinks, looks up and says: text alone."""

from __future__ import annotations

from holdfast.demo.agent import Call, Node, Say, Task, Think

TASKS = {
    "checkout": Task(
        "Why did checkout slow down on Tuesday?",
        (
            Node("Plan"),
            Think(
                "Checkout is three services and a database, so start where a customer would "
                "feel it: the latency of the whole request, then of each part. If one part "
                "moved and the others did not, the question is half answered."
            ),
            Node("Look"),
            Call(
                "query_metrics",
                {"metric": "checkout.latency.p95", "range": "Mon to Wed"},
                "p95 210 ms until Tue 14:05, then 890 ms; back to 230 ms on Wed 03:10",
                1.4,
            ),
            Think(
                "Four times slower from one minute to the next is no growth in traffic. "
                "Something was switched on at 14:05."
            ),
            Call(
                "list_deploys",
                {"service": "checkout", "from": "Tue 13:30", "to": "Tue 14:30"},
                "14:03 checkout 5.12.0: “show delivery estimate in the cart”",
                0.8,
            ),
            Call(
                "search_traces",
                {"service": "checkout", "slower_than_ms": 800, "limit": 200},
                "197 of 200 traces: 31 to 64 calls to shipping.estimate, one after the other",
                1.9,
            ),
            Think(
                "One call for each line of the cart, in sequence. A cart of forty lines waits "
                "forty times. Then why did it stop by itself on Wednesday at three in the "
                "morning?"
            ),
            Call(
                "search_logs",
                {"service": "shipping", "level": "warn", "around": "Wed 03:10"},
                "03:10 estimate cache warmed for 48 210 postcodes (nightly job)",
                1.2,
            ),
            Node("Answer"),
            Say(
                "Checkout slowed down because release 5.12.0 asks for a delivery estimate once "
                "for every line of the cart, and asks one after the other.\n\n"
                "Before the release a request made no such call. After it, the traces show "
                "between 31 and 64 of them, about 15 milliseconds each while the cache of the "
                "shipping service was cold. That accounts for nearly all of the 680 "
                "milliseconds that were added at 14:05.\n\n"
                "It did not repair itself on Wednesday. At 03:10 a nightly job filled the "
                "cache for the postcodes in use, so each call became cheap enough not to be "
                "noticed. The calls are still there, and the next empty cache will bring the "
                "delay back.\n\n"
                "What I would do, in this order: ask for all lines of a cart in one call, "
                "which the shipping service already offers; set a deadline of 150 milliseconds "
                "and show the cart without an estimate when it passes; and add an alert on "
                "calls per request, since that number rose a full day before anybody saw the "
                "latency."
            ),
        ),
    ),
    "walk": Task(
        "Plan two days on foot along the coast",
        (
            Node("Plan"),
            Think(
                "Two days, one night, no car. The tide decides which beaches can be walked and "
                "when, so the timetable of the sea comes before that of the trains."
            ),
            Node("Look"),
            Call(
                "tide_table",
                {"port": "Stonehaven", "days": 2},
                "Sat low 09:52 (0.7 m), high 16:08 · Sun low 10:41 (0.6 m), high 16:59",
                1.1,
            ),
            Call(
                "forecast",
                {"place": "Stonehaven", "days": 2},
                "Sat dry, wind SW 4 · Sun showers from 15:00, wind W 5",
                1.3,
            ),
            Think(
                "Low water in the late morning on both days: the sands can be walked until "
                "about one. Then the cliff path, with the wind from behind if the way goes "
                "north."
            ),
            Call(
                "find_beds",
                {"between": ["Gourdon", "Inverbervie"], "night": "Sat"},
                "2 free: harbour inn (Gourdon), bunkhouse (Inverbervie)",
                1.6,
            ),
            Node("Answer"),
            Say(
                "Walk north, and let the tide set the hours.\n\n"
                "On Saturday start at St Cyrus at half past nine. Low water is at 09:52, so "
                "the sands lie open and firm for the first eight kilometres. Be off the beach "
                "by one o'clock and take the cliff path to Gourdon: nineteen kilometres in "
                "all, with the wind at your back and the harbour inn at the end of it.\n\n"
                "On Sunday leave early. Rain comes at three, and the finest part, the arches "
                "beyond Inverbervie, deserves dry rock. Pass below them around low water at "
                "10:41, climb at the old salmon station, and follow the path over the castle "
                "headland to Stonehaven. You should be at the station by two, an hour before "
                "the first shower.\n\n"
                "Carry water for the second day, because there is none between Inverbervie and "
                "the castle, and ring the inn before noon on Saturday: it keeps one room back "
                "for people who arrive on foot."
            ),
        ),
    ),
}
