// data.S: the model file and the picture, as constants in flash. A model file must be aligned to 16 bytes; 64 is better.

    .syntax unified
    .section .model, "a"
    .balign 64
    .globl model_begin, model_end, picture_begin, picture_end
model_begin:
    .incbin MODEL
model_end:
    .balign 64
picture_begin:
    .incbin PICTURE
picture_end:
