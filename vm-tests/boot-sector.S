# What a machine without a disk boots from the volume: reads a block, prints it on the serial line, writes it to the
# next block, and ends the machine. The firmware carries each step to the target (INT 13h).
    .code16
    .globl _start
_start:
    xorw %ax, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movw $0x7C00, %sp
    movb %dl, drive
    movb $0x42, %ah             # extended read
    movw $request, %si
    int $0x13
    jc failed
    movw $0x8000, %si
    call print
    incw block
    movw $0x4300, %ax           # extended write, without verification
    movw $request, %si
    movb drive, %dl
    int $0x13
    jc failed
    movw $written, %si
    call print
    movb $1, %al
    jmp leave
failed:
    movw $refused, %si
    call print
    movb $2, %al
leave:
    movw $0xF4, %dx             # isa-debug-exit: status 2 * al + 1
    outb %al, %dx
    hlt
    jmp leave

print:
    lodsb
    testb %al, %al
    jz printed
    movb %al, %cl
ready:
    movw $0x3FD, %dx            # line status: is there room for a byte?
    inb %dx, %al
    testb $0x20, %al
    jz ready
    movb %cl, %al
    movw $0x3F8, %dx
    outb %al, %dx
    jmp print
printed:
    ret

drive:
    .byte 0
    .balign 4
request:
    .byte 16, 0
    .word 1                     # block
    .word 0x8000, 0             # to
block:
    .long 2048, 0               # from
written:
    .asciz "written\n"
refused:
    .asciz "the firmware has an error for us\n"
    .org 510
    .word 0xAA55
