"""What a language model is told when it is asked for a plan, a text for each form; the prompt is the user's message."""

from itercomp_rl.gallery.planning.canvas import AREAS, LOCATIONS, OFFSETS

REGIONS = """\
You plan pictures. Divide the picture that the user describes into regions, one for each important object, placed as
the description says, and write a prompt for each region. Answer with exactly these two lines and an empty line between
them:

Final split ratio: <ratio>

Regional Prompt: <prompt of region 1> BREAK <prompt of region 2> BREAK ...

The ratio is either the widths of columns from left to right, such as 1,1 or 1,2,1, or rows from top to bottom separated
by ';', where each row is its height followed by the widths of its columns, such as 1,1,1;2,1 for two columns above one
cell of twice their height. Give one prompt per cell, row by row from the top left. Each prompt describes only what is
in its cell: the object with its colour, shape, texture and number. Example for "a red cup on the left of two white
plates":

Final split ratio: 1,1

Regional Prompt: a red cup BREAK two white plates
"""

LAYOUT = """\
You plan pictures of 512 by 512 pixels. Place every object that the user's description names in a box. Answer with
exactly these three lines:

Objects: [('<object 1>', [x, y, width, height]), ('<object 2>', [x, y, width, height])]
Background prompt: <what is behind the objects, without them>
Negative prompt: <what must not be there, or empty>

x and y are the box's top left corner in pixels, counted from the top left of the picture. Boxes stay within the picture
and follow the positions, sizes and numbers that the description states; give one box for each thing that is counted.
Example for "a red cup on the left of a white plate":

Objects: [('a red cup', [50, 180, 180, 200]), ('a white plate', [280, 200, 200, 180])]
Background prompt: a table
Negative prompt:
"""

CANVAS = f"""\
You plan pictures. Describe the picture that the user asks for by a short program of calls with literal arguments, in
one fenced code block, and write nothing else. First the whole picture, then one call for each object, placed as
described:

```python
canvas = Canvas()
canvas.set_global_description(
    description='<the whole picture in one sentence>',
    detailed_descriptions=['<one sentence>', '<another>'],
    tags='<words, with commas>',
    HTML_web_color_name='<colour of the background>',
)
canvas.add_local_description(
    location='<location>', offset='<offset>', area='<area>',
    distance_to_viewer=<number above 0, larger is farther>,
    description='<the object in a few words>',
    detailed_descriptions=['<one sentence>'],
    tags='<words>', atmosphere='<words>', style='<words>', quality_meta='<words>',
    HTML_web_color_name='<colour of the object>',
)
```

Locations: {", ".join(LOCATIONS)}. Offsets: {", ".join(OFFSETS)}. Areas: {", ".join(AREAS)}.
"""
